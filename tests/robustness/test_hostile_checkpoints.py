"""Hostile checkpoints: nothing runs, hangs, eats memory, escapes as a traceback or is obeyed."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import socket
import stat
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paragon_export.checkpoints import pickle_scan as pickles
from paragon_export.checkpoints.formats import MAX_TENSORS
from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.checkpoints.pickle_scan import scan
from paragon_export.errors import CheckpointError, ParagonExportError
from paragon_export.networks.describe import read_network
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing import hostile
from paragon_export.testing.mutate import mutate_bytes, mutate_header, mutate_pickled
from paragon_export.testing.tiny import save, tiny_checkpoint, tiny_hyperparameters, tiny_tensors
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import RunHere

CODE = hostile.code_files(Path("canary"))

BOMBS = hostile.bombs()

FORMATS = ("safetensors", "zip", "legacy")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def good(kind: str) -> bytes:
    """Return the bytes of a small checkpoint that is read."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime", blocks=1))
    state = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    if kind != "safetensors":
        return hostile.saved({"params": state, "epoch": 1}, zipped=kind == "zip")
    from safetensors.torch import save as save_bytes

    return save_bytes(state, {"upsampler_alpha": "0.25"})


# --- code ---------------------------------------------------------------------------------


def test_there_are_many_kinds() -> None:
    """What is refused below is not one trick in many coats."""
    assert len(hostile.code_values(Path("canary"))) >= 60


@pytest.mark.parametrize("kind", CODE)
def test_code_never_runs(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that names a function is refused, and what it names has not run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.pth").write_bytes(CODE[kind])
    before = dict(os.environ)

    refusal(tmp_path / "c.pth")

    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.open", "INST", "OBJ"])
def test_the_values_would_run(name: str, tmp_path: Path) -> None:
    """A plain unpickler that builds the same value makes the canary: the files are hostile."""
    canary = tmp_path / "canary"
    value = hostile.code_values(canary)[name]

    pickle.loads(hostile.state_of(value))

    assert canary.exists()


@pytest.mark.parametrize("name", hostile.code_values(Path("canary")))
def test_the_scan_alone_refuses_code(name: str) -> None:
    """The look through the opcodes does not lean on PyTorch's own refusal."""
    value = hostile.code_values(Path("canary"))[name]
    with pytest.raises((pickle.UnpicklingError, ValueError, LookupError)):
        scan(hostile.archive(hostile.state_of(value)))


def test_a_real_torchscript_archive_is_refused(tmp_path: Path) -> None:
    """An archive that PyTorch's compiler wrote holds code, and the refusal says what to do."""
    path = tmp_path / "c.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)

    assert "TorchScript archive; save the network's state dict" in refusal(path)


# --- memory and time ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_refused_in_little_memory(kind: str, tmp_path: Path) -> None:
    """What claims, unfolds or expands to much is refused before it takes anything."""
    path = tmp_path / "c.pth"
    path.write_bytes(BOMBS[kind])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    used = int(next(x for x in status.splitlines() if x.startswith("VmData:")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + 2**29, hard))
    try:
        refusal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_a_pickle_of_too_many_opcodes_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opcodes are counted: a few bytes each, they would keep the unpickler busy for minutes."""
    monkeypatch.setattr(pickles, "MAX_OPCODES", 1000)
    path = tmp_path / "c"
    path.write_bytes(hostile.archive(b"\x80\x02" + b"N" * 1100))

    assert "more than 1000 opcodes" in refusal(path)


def test_what_pytorch_writes_passes_the_scan() -> None:
    """State dicts of modules, optimizers' states, views and odd values beside them are read."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    whole = torch.arange(64.0)
    document = {
        "params": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [whole[8:16], whole.view(8, 8).T, whole[::3], torch.zeros(0, 5), torch.tensor(1)],
        "expanded": torch.zeros(1).expand(5, 5),
        "parameter": torch.nn.Parameter(whole),
        "types": [whole.to(t) for t in (torch.half, torch.bfloat16, torch.int64, torch.bool)],
        "newer": whole.to(torch.uint16),
        "beside": [None, True, 1, -(2**70), 1.5, "text", b"bytes", (1, (2, 3)), {1, 2}, [[]]],
        "torch": [torch.Size([1, 2]), torch.float16, torch.device("cpu")],
    }
    for zipped in (True, False):
        scan(hostile.saved(document, zipped=zipped))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_archive_is_found_by_its_checksums(kind: str, tmp_path: Path) -> None:
    """One flipped bit in the weights of a zipped file is damage; other formats have no checksum."""
    data = bytearray(good(kind))
    at = data.index(np.float32(-0.03125).tobytes())  # a tap of a filter
    data[at + 2] ^= 1
    path = tmp_path / "c"
    path.write_bytes(bytes(data))
    if kind == "zip":
        assert "checksum" in refusal(path)
    else:
        load_checkpoint(path)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    """PyTorch can be told to leave the checksums out."""
    path = tmp_path / "c.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"conv.weight": torch.ones(100)}, path)
    finally:
        torch.serialization.set_crc32_options(True)

    assert load_checkpoint(path).tensors["conv.weight"].sum() == 100


def test_many_tensors_are_refused(tmp_path: Path) -> None:
    """Building a network of a hundred thousand layers would take for ever."""
    tensors = {
        f"body.{i}.blocks.0.conv1.weight": np.ones(1, np.float32) for i in range(MAX_TENSORS + 1)
    }

    assert "at most" in refusal(save(tensors, tmp_path / "c.safetensors"))


# --- safetensors --------------------------------------------------------------------------


def header(document: Any, body: bytes = bytes(16), length: int | None = None) -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[Any], begin: int = 0, end: int = 16, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, bytes] = {
    "length of 2^63": header({"w": entry([4])}, length=2**63),
    "length of 2^64 - 1": header({"w": entry([4])}, length=2**64 - 1),
    "length beyond the limit": header(b" " * 2**20, length=2**24 + 1),
    "offsets of 2^63": header({"w": entry([4], 2**63, 2**63 + 16)}),
    "offsets beyond the end": header({"w": entry([4], 2**40, 2**40 + 16)}),
    "overlapping": header({"a": entry([4]), "b": entry([4])}),
    "overlapping in part": header({"a": entry([3], 0, 12), "b": entry([2], 8, 16)}),
    "a hole": header({"a": entry([1], 0, 4), "b": entry([1], 12, 16)}),
    "falling offsets": header({"w": entry([4], 16, 0)}),
    "product overflows to 4": header({"w": entry([2**62, 2**62, 4])}),
    "product overflows to 0": header({"w": entry([2**32, 2**32], 0, 0)}, b""),
    "nothing, of gigantic extents": header({"w": entry([0, 2**62], 0, 0)}, b""),
    "negative": header({"w": entry([-4])}),
    "not whole": header({"w": entry([4.0])}),
    "text for an extent": header({"w": entry(["4"])}),
    "true for an extent": header({"w": entry([True], 0, 4)}, bytes(4)),
    "many dimensions": header({"w": entry([1] * 100, 0, 4)}, bytes(4)),
    "a name twice": header(b'{"w":' + json.dumps(entry([4])).encode() + b',"w":'
                           + json.dumps(entry([4])).encode() + b"}"),
    "float8": header({"w": entry([16], dtype="F8_E4M3")}),
    "complex": header({"w": entry([2], dtype="C64")}),
    "unknown type": header({"w": entry([4], dtype="Q3")}),
    "a long name": header({"w" * 5000: entry([4])}),
    "no table": header(b"[]"),
    "a number": header(b"{}" + b" " * 6 + b"7"),
    "deep": header(b'{"a":' * 50_000),
    "deep list": header(b"{" + b'"a":' + b"[" * 50_000),
    "cut in a character": header(b'{"\xc3'),
    "metadata of numbers": header({"__metadata__": {"a": 1}, "w": entry([4])}),
    "metadata of tables": header({"__metadata__": {"a": {}}, "w": entry([4])}),
    "metadata that is a list": header({"__metadata__": ["a"], "w": entry([4])}),
    "metadata that is text": header({"__metadata__": "a", "w": entry([4])}),
    "metadata twice": header(b'{"__metadata__":{},"__metadata__":{},"w":'
                             + json.dumps(entry([4])).encode() + b"}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_lying_headers_are_refused(kind: str, tmp_path: Path) -> None:
    """A header that overlaps, overflows, repeats itself or is something else is refused."""
    path = tmp_path / "c.safetensors"
    path.write_bytes(HEADERS[kind])

    refusal(path)


# --- tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2).to(torch.float8_e4m3fn),
        torch.zeros(2, dtype=torch.uint16),
        torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
        torch.zeros(2, 2).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    ],
    ids=["complex", "float8", "uint16", "quantised", "sparse", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_types_that_no_network_has_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    """Numbers that are not plain are refused by name, not turned into others."""
    path = tmp_path / "c.pth"
    torch.save({"conv.weight": tensor}, path)

    refusal(path)


@pytest.mark.parametrize("key", [1, None, True, (1, 2), 1.5, b"w"])
def test_names_that_are_no_text_are_refused(key: Any, tmp_path: Path) -> None:
    """A state dict has texts for keys."""
    path = tmp_path / "c.pth"
    torch.save({"params": {key: torch.ones(1)}}, path)

    refusal(path)


@pytest.mark.parametrize(
    "prefixes", [("", "module."), ("model.", "module.model."), ("", "_orig_mod.")]
)
def test_names_that_meet_once_their_prefix_is_gone(
    prefixes: tuple[str, ...], tmp_path: Path
) -> None:
    """Of two tensors of one name none is taken."""
    tensors = {f"{prefix}conv.weight": np.ones(1, np.float32) for prefix in prefixes}

    assert "twice" in refusal(save(tensors, tmp_path / "c.safetensors"))


def test_a_name_of_prefixes_alone_ends(tmp_path: Path) -> None:
    """Prefixes are taken off one by one, and there are only so many."""
    tensors = {"model." * 160 + "w": np.ones(1, np.float32)}

    assert list(load_checkpoint(save(tensors, tmp_path / "c")).tensors) == ["w"]


# --- what reaches the terminal ------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.control_names())
@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_names_do_not_reach_the_terminal_raw(
    name: str, fmt: str, tmp_path: Path, run_here: RunHere
) -> None:
    """Whatever a tensor is called, the error is one printable line, and no path is followed."""
    tensors = {name: np.full(1, np.nan, np.float32)}
    save(tensors, tmp_path / "c", fmt=fmt)
    before = listing(tmp_path)

    done = run_here("inspect", "c")

    assert_one_helpful_line(done, "paragon-export")
    assert done.stderr[:-1].isprintable()
    assert listing(tmp_path) == before


def test_metadata_does_not_reach_the_terminal_raw(tmp_path: Path, run_here: RunHere) -> None:
    """A value that is refused is quoted, and quoted briefly."""
    facts = {"upsampler_alpha": "\x1b[2J" * 1000}
    tiny_checkpoint(tmp_path / "c", metadata=facts)

    done = run_here("inspect", "c")

    assert_one_helpful_line(done, "upsampler_alpha")
    assert done.stderr[:-1].isprintable()
    assert len(done.stderr) < 400


def test_file_names_do_not_reach_the_terminal_raw(tmp_path: Path, run_here: RunHere) -> None:
    """Nor does the name of a file that is missing or bad."""
    name = "\x1b[31mc\n.pth"
    (tmp_path / name).write_bytes(b"nothing")

    for done in (run_here("inspect", name), run_here("inspect", "absent" + name)):
        assert_one_helpful_line(done, "\\x1b[31mc")


# --- things that are no files -------------------------------------------------------------


def _unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES = {
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (_unix_socket, "a socket"),
    "folder": (Path.mkdir, "a directory"),
    "device": (_device, "a device"),
    "random": (lambda path: path.symlink_to("/dev/urandom"), "a device"),
    "loop": (lambda path: path.symlink_to(path), "symbolic links"),
    "dangling": (lambda path: path.symlink_to("absent"), "No such file"),
    "below a file": (lambda path: path.symlink_to(f"{__file__}/x"), "Not a directory"),
    "empty": (Path.touch, "empty"),
    "process": (lambda path: path.symlink_to("/proc/self/maps"), "does not hold"),
    "long": (lambda path: path.symlink_to("a" * 300), "too long"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(
    kind: str, tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe is not waited for, a device not drained, a loop not followed."""
    monkeypatch.chdir(tmp_path)
    make, word = NO_FILES[kind]
    make(tmp_path / "x")  # type: ignore[operator]

    assert_one_helpful_line(run_here("inspect", "x"), word)


def test_a_file_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own word is passed on; root, as whom tests may run, is refused nothing."""
    path = tiny_checkpoint(tmp_path / "c")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in refusal(path)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    """A file of a terabyte, all holes, is refused by its size."""
    path = tmp_path / "c.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)

    assert "at most" in refusal(path)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening the file may be changed for something else."""
    path = tmp_path / "c"
    os.mkfifo(path)
    as_file = os.stat_result((stat.S_IFREG | 0o600, *[0] * 9))
    monkeypatch.setattr(Path, "stat", lambda self, **_: as_file)

    assert "a pipe" in refusal(path)


# --- absurd networks ----------------------------------------------------------------------


def _absurd(change: Any) -> Any:
    def make() -> dict[str, np.ndarray]:
        tensors = tiny_tensors(tiny_hyperparameters("realtime", features=4, blocks=1))
        change(tensors)
        return tensors

    return make


def _rows(tensors: dict[str, np.ndarray]) -> None:
    tensors["up.0.weight"] = np.zeros((4 * 1000**2, 1, 1, 1), np.float32)
    tensors["conv_in.weight"] = np.zeros((4, 3, 3, 3), np.float32)


def _groups(tensors: dict[str, np.ndarray]) -> None:
    weight = np.zeros((8, 4, 1, 1), np.float32)
    for index in range(3000):
        tensors[f"body.{index}.blocks.0.conv1.weight"] = weight
        tensors[f"body.0.blocks.{index}.conv1.weight"] = weight


def _billion(tensors: dict[str, np.ndarray]) -> None:
    tensors["body.999999999.blocks.999999999.conv1.weight"] = np.zeros((8, 4, 1, 1), np.float32)


def _wide(tensors: dict[str, np.ndarray]) -> None:
    tensors["body.0.blocks.0.conv1.weight"] = np.zeros((10**6, 1, 1, 1), np.float32)


def _channels(tensors: dict[str, np.ndarray]) -> None:
    tensors["conv_in.weight"] = np.zeros((4, 10**6, 1, 1), np.float32)


def _nothing(tensors: dict[str, np.ndarray]) -> None:
    for name in list(tensors):
        tensors[name] = np.zeros((0, *tensors[name].shape[1:]), np.float32)


@pytest.mark.parametrize("change", [_rows, _groups, _billion, _wide, _channels, _nothing])
def test_absurd_networks_are_refused_cheaply(change: Any, tmp_path: Path) -> None:
    """Well-formed tensors of a network that would take terabytes are refused by their shapes."""
    path = save(_absurd(change)(), tmp_path / "c")

    with pytest.raises(ParagonExportError):
        read_network(path, NetworkOptions())


def test_stages_of_doubling_are_counted(tmp_path: Path) -> None:
    """A scale of two to the thousandth is no scale."""
    tensors = {f"detail_upsampler.stages.{i}.up_conv.weight": np.zeros((32, 8, 3, 3), np.float32)
               for i in range(1000)}  # fmt: skip
    tensors["conv_in.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    tensors["body.0.blocks.0.net.0.weight"] = np.zeros((8, 8, 1, 1), np.float32)

    with pytest.raises(CheckpointError, match="1000 stages"):
        read_network(save(tensors, tmp_path / "c"), NetworkOptions())


@pytest.mark.parametrize(
    "value", [0, -1, 33, 64, 257, 10**9, 10**400, True, "16", 16.5, None, [16], {}]
)
def test_a_window_in_metadata_is_checked(value: Any, tmp_path: Path) -> None:
    """A window of a billion pixels is refused wherever it is told."""
    facts = {"network_g": json.dumps({"window_size": value})}
    path = tiny_checkpoint(tmp_path / "c", "photo", metadata=facts)

    with pytest.raises(ParagonExportError, match="window_size"):
        read_network(path, NetworkOptions())


# --- drawn at random ----------------------------------------------------------------------

SEEDS = {kind: good(kind) for kind in FORMATS}

SNIPPETS = list(hostile.code_values(Path("canary")).values())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(FORMATS), rng=st.randoms(use_true_random=False))
def test_mutated_checkpoints_are_read_or_refused(
    kind: str, rng: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is changed, a file is described or refused in a line."""
    data = SEEDS[kind]
    choice = rng.random()
    if kind == "safetensors" and choice < 0.7:
        data = mutate_header(rng, data)
    elif kind == "zip" and choice < 0.7:
        data = mutate_pickled(rng, data, SNIPPETS)
    else:
        data = mutate_bytes(rng, data)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(data)
    with suppress(ParagonExportError):
        read_network(path, NetworkOptions())


def test_an_archive_of_archives_is_not_unpacked(tmp_path: Path) -> None:
    """A zip of a zip that unpacks to gigabytes is refused for being compressed."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("archive/data.pkl", bytes(2**26))
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("archive/data.pkl", inner.getvalue())
    for data in (inner.getvalue(), outer.getvalue()):
        (tmp_path / "c").write_bytes(data)
        refusal(tmp_path / "c")


def test_the_error_is_one_line_of_bounded_length(tmp_path: Path, run_here: RunHere) -> None:
    """A network of many long names does not fill the screen."""
    tensors = {f"{i:03d}" + "n" * 900: np.ones(1, np.float32) for i in range(50)}
    save(tensors, tmp_path / "c")

    done = run_here("inspect", "c")

    assert_one_helpful_line(done, "no supported network")
    assert len(done.stderr) < 4100
