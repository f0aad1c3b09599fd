"""Small files that ask for gigabytes: what they claim is bounded before anything is made of it."""

from __future__ import annotations

import io
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.checkpoints.archive import MAX_RECORDS, check_directory
from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.errors import CheckpointError, PlanError
from paragon_export.networks.describe import read_network
from paragon_export.pipeline.quantize import Calibration, read_grids
from paragon_export.rewrite.rules import rewrite
from paragon_export.specs.network import Port
from paragon_export.specs.plans import NetworkOptions
from paragon_export.system.limits import limited_memory
from paragon_export.testing import hostile
from paragon_export.testing.tiny import save, tiny_checkpoint
from tests.cli.test_errors import assert_one_helpful_line
from tests.conftest import RunHere
from tests.networks.test_older import weights_of

# --- archives -----------------------------------------------------------------------------


def many(records: int) -> bytes:
    """Return an archive with so many empty records, written by hand: zipfile takes its time."""
    entry = b"PK\1\2" + bytes(42)
    count = min(records, 0xFFFF)
    directory = entry * records
    return directory + struct.pack("<4s4xHHLLH", b"PK\5\6", count, count, len(directory), 0, 0)


def wide(records: int) -> bytes:
    """Return the same with the end that archives over 4 GiB have, and a count that lies in none."""
    entry = b"PK\1\2" + bytes(42)
    directory = entry * records
    size = len(directory)
    end = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, records, records, size, 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, size, 1)
    last = struct.pack("<4s4xHHLLH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return directory + end + locator + last


def claiming(count: int, size: int) -> bytes:
    """Return an archive whose end claims what is not there."""
    return struct.pack("<4s4xHHLLH", b"PK\5\6", count, count, size, 0, 0)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "many": lambda: many(MAX_RECORDS + 1),
    "very many": lambda: many(400_000),
    "many, counted in 64 bits": lambda: wide(MAX_RECORDS + 1),
    "many, with a comment": lambda: many(MAX_RECORDS + 1)[:-2] + b"\3\0abc",
    "many that count as few": lambda: many(70_000).replace(b"\xff\xff\xff\xff", b"\1\0\1\0", 1),
    "a list that is long": lambda: b"PK" + bytes(2**24) + claiming(1, 2**24 + 1),
    "a claim of gigabytes": lambda: claiming(1, 0xFFFFFFF0),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_many_records_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    """Eight million took a minute and 4 GB to be listed; the list's end says how long it is."""
    data = ARCHIVES[kind]()
    path = tmp_path / "c.pth"
    path.write_bytes(data)
    start = time.process_time()

    with pytest.raises(ValueError, match="records"):
        check_directory(data)
    with pytest.raises(CheckpointError, match="an archive of"):
        load_checkpoint(path)
    with pytest.raises(PlanError, match="an archive of"):
        read_grids(Calibration(path=path), Port("input", ("batch", 16, 16), "int64", span=(0, 9)))

    assert time.process_time() - start < 2


def test_an_archive_with_two_ends_is_refused() -> None:
    """What zipfile reads and what PyTorch reads must be one list."""
    data = wide(3)
    at = data.index(b"PK\6\7")
    for other in (0, 1, len(data), 2**63):
        moved = data[: at + 8] + struct.pack("<Q", other) + data[at + 16 :]
        with pytest.raises(ValueError, match="two end records"):
            check_directory(moved)
    check_directory(data)


def test_archives_as_they_are_written_are_read(tmp_path: Path) -> None:
    """PyTorch's, NumPy's and zipfile's, with a comment too, up to the bound."""
    check_directory(hostile.saved({"params": hostile.STATE}))
    buffer = io.BytesIO()
    np.savez(buffer, grids=np.zeros((64, 16, 16), np.int64))
    check_directory(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", allowZip64=True) as zipped:
        for index in range(300):
            zipped.writestr(f"archive/data/{index}", b"x")
        zipped.comment = b"a comment"
    check_directory(buffer.getvalue())
    check_directory(many(MAX_RECORDS - 1))
    check_directory(wide(MAX_RECORDS))
    for nothing in (b"", b"PK", b"PK\5\6", bytes(100)):
        with pytest.raises(ValueError, match="without an end record"):
            check_directory(nothing)


# --- networks -----------------------------------------------------------------------------


def halved(path: Path) -> Path:
    """Store a checkpoint's weights in two bytes each."""
    from safetensors.torch import load_file, save_file

    save_file({n: t.half() for n, t in load_file(path).items()}, path)
    return path


def test_a_small_file_cannot_ask_for_137_gigabytes(tmp_path: Path, run_here: RunHere) -> None:
    """Filters of 8192 channels, put together with a shuffle by 4, are 2^34 numbers."""
    path = halved(
        tiny_checkpoint(tmp_path / "c.safetensors", scale=4, features=1, blocks=1, in_channels=8192)
    )
    assert path.stat().st_size < 10**6

    for command in ("onnx", "inspect", "audit"):
        with limited_memory(2**31):
            done = run_here(command, "c.safetensors")
        assert_one_helpful_line(done, "c.safetensors")
        assert "8192 channels" in done.stderr


def large(name: str, **arguments: Any) -> Callable[[Path], Path]:
    return lambda folder: tiny_checkpoint(folder / "c.safetensors", name, **arguments)


def with_tensor(name: str, tensor: str, shape: tuple[int, ...]) -> Callable[[Path], Path]:
    """Change the shape of one tensor of a good checkpoint."""

    def make(folder: Path) -> Path:
        path = tiny_checkpoint(folder / "c.safetensors", name, blocks=1)
        tensors = dict(load_checkpoint(path).tensors)
        return save({**tensors, tensor: np.zeros(shape, np.float32)}, path)

    return make


NETWORKS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "channels": (large("realtime", in_channels=257, features=1, blocks=1), "257 channels"),
    "channels at a scale": (
        large("realtime", scale=16, in_channels=17, features=1, blocks=1),
        "17 channels at a scale of 16",
    ),
    "blocks": (large("realtime", features=1, blocks=257), "257 blocks"),
    "tokens": (
        with_tensor("pro", "body.0.blocks.0.token_ca.token_dict", (1, 5000, 8)),
        "5000 tokens",
    ),
    "a long kernel": (
        with_tensor("realtime", "base.sharp.h.weight", (3, 1, 1, 2001)),
        "kernels of 64",
    ),
    "a wide kernel": (with_tensor("realtime", "conv_mid.weight", (8193, 1, 1, 1)), "8192 channels"),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_larger_than_any_are_refused(kind: str, tmp_path: Path) -> None:
    """Each for what it has too much of, before it is built."""
    make, words = NETWORKS[kind]

    with pytest.raises(CheckpointError, match=words):
        read_network(make(tmp_path), NetworkOptions())


def test_features_at_full_size_are_bounded(tmp_path: Path) -> None:
    """An older network's scale is told by a flag, whatever its width."""
    weights = weights_of("v0c_nano_x2_24x20")
    path = save(weights, tmp_path / "c.safetensors")
    assert read_network(path, NetworkOptions(flags={"scale": 16})).spec.scale == 16
    features = weights["conv_in.weight"].shape[0]
    assert features * 16**2 <= 2**14
    from paragon_export.networks import describe as describing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describing, "MAX_FULL_SIZE_VALUES", features * 16**2 - 1)
        with pytest.raises(CheckpointError, match=f"{features} features at a scale of 16"):
            read_network(path, NetworkOptions(flags={"scale": 16}))


class RepeatThenFilter(nn.Module):
    """What ``repeat_after_filter`` looks for."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = float(scale)
        self.filter = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.filter(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class ConvolveShuffleConvolve(nn.Module):
    """What ``fuse_tail`` looks for."""

    def __init__(self, channels: int, scale: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.second = nn.Conv2d(channels, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.shuffle(self.first(x)))


@pytest.mark.parametrize(
    ("rule", "small", "huge"),
    [
        ("repeat_after_filter", lambda: RepeatThenFilter(3, 4), lambda: RepeatThenFilter(1024, 2)),
        (
            "fuse_tail",
            lambda: ConvolveShuffleConvolve(8, 2, 3),
            lambda: ConvolveShuffleConvolve(96, 16, 100),
        ),
    ],
)
def test_a_rule_that_would_make_too_much_does_not_fire(
    rule: str, small: Callable[[], nn.Module], huge: Callable[[], nn.Module]
) -> None:
    """What it would put together is larger than any network's; the network is left as it is."""
    assert rule in rewrite(small().eval()).fired
    module = huge().eval()
    with limited_memory(2**31), torch.no_grad():
        assert rule not in rewrite(module).fired
