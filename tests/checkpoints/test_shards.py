"""Checkpoints in shards: the index stands for all of them, and a shard alone is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from paragon_export.checkpoints.load import load_checkpoint, load_if_digest
from paragon_export.errors import CheckpointError
from paragon_export.testing.tiny import save, save_shards, tiny_hyperparameters, tiny_tensors
from tests.conftest import RunHere

TENSORS = tiny_tensors(tiny_hyperparameters("realtime", blocks=1))

SIZES = ("--sizes", "5x7")


def shards_of(index: Path) -> list[Path]:
    document = json.loads(index.read_text(encoding="utf-8"))
    return [index.parent / name for name in sorted(set(document["weight_map"].values()))]


@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_index_loads_as_the_whole_checkpoint(count: int, fmt: str, tmp_path: Path) -> None:
    """Bit for bit, under the path of the index."""
    index = save_shards(TENSORS, tmp_path, count, fmt=fmt)

    checkpoint = load_checkpoint(index)

    assert sorted(checkpoint.tensors) == sorted(TENSORS)
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], array, err_msg=name)
    assert checkpoint.path == index


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "net.json", "net.pth", "net"])
def test_content_decides_what_is_an_index(name: str, tmp_path: Path) -> None:
    """And a checkpoint in one file is one under the name of an index, too."""
    index = save_shards(TENSORS, tmp_path).rename(tmp_path / name)
    assert len(load_checkpoint(index).tensors) == len(TENSORS)

    save(TENSORS, index)
    assert len(load_checkpoint(index).tensors) == len(TENSORS)


def test_prefixes_are_removed_from_the_joined_names(tmp_path: Path) -> None:
    """A prefix that all tensors have is removed, though a shard alone does not show it."""
    prefixed = {f"module.net.{name}": array for name, array in TENSORS.items()}

    assert sorted(load_checkpoint(save_shards(prefixed, tmp_path)).tensors) == sorted(TENSORS)


def test_the_digest_covers_index_and_shards(tmp_path: Path) -> None:
    """It changes with a byte of any of them, and does not depend on the name of the index."""
    index = save_shards(TENSORS, tmp_path)
    files = [index, *shards_of(index)]
    first = load_checkpoint(index).sha256
    lines = [hashlib.sha256(file.read_bytes()).hexdigest() + "\n" for file in files]
    assert first == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert load_checkpoint(index.rename(tmp_path / "other.index.json")).sha256 == first
    (tmp_path / "other.index.json").rename(index)

    for file in files:
        data = file.read_bytes()
        change = (b'"total_size": 1', b'"total_size": 2') if file == index else (data[-1:], b"\x01")
        file.write_bytes(data[:-1] + change[1] if file != index else data.replace(*change))
        assert load_checkpoint(index).sha256 != first, file.name
        assert load_if_digest(index, first) is None
        file.write_bytes(data)
    assert load_if_digest(index, first) is not None
    files[-1].unlink()
    assert load_if_digest(index, first) is None


def test_the_documented_command_gives_the_digest(tmp_path: Path) -> None:
    """The documentation names a command that prints it."""
    index = save_shards(TENSORS, tmp_path)
    command = "sha256sum model.safetensors.index.json model-*.safetensors | cut -c1-64 | sha256sum"

    found = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)

    assert found.stdout.decode()[:64] == load_checkpoint(index).sha256


def test_metadata_of_index_and_shards_are_joined(tmp_path: Path) -> None:
    """Writers put a user's metadata into the header of each shard, or into the index."""
    index = save_shards(TENSORS, tmp_path, metadata={"total_size": 7, "upsampler_alpha": 0.25})
    shard = shards_of(index)[0]
    inside = {name: TENSORS[name] for name in sorted(TENSORS)[::2]}
    save(inside, shard, metadata={"format": "pt", "upsampler_alpha": "0.25"})
    assert load_checkpoint(index).metadata == {"format": "pt", "upsampler_alpha": "0.25"}

    save(inside, shard, metadata={"upsampler_alpha": "0.5"})
    with pytest.raises(CheckpointError, match=r"'upsampler_alpha' is '0.5' in model-00001"):
        load_checkpoint(index)


@pytest.mark.parametrize("fmt", ["safetensors", "pth"])
def test_a_shard_alone_is_refused_with_its_index(fmt: str, tmp_path: Path) -> None:
    """The message says which file to give, or that it is missing."""
    index = save_shards(TENSORS, tmp_path, fmt=fmt)
    shard = shards_of(index)[1]
    with pytest.raises(CheckpointError, match="is one of 2 shards") as caught:
        load_checkpoint(shard)
    assert f"give {index}" in str(caught.value)

    index.unlink()
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        load_checkpoint(shard)
    assert str(index) in str(caught.value)


def test_the_only_shard_is_a_whole_checkpoint(tmp_path: Path) -> None:
    """Some writers number a single file, too."""
    shard = shards_of(save_shards(TENSORS, tmp_path, 1))[0]

    assert len(load_checkpoint(shard).tensors) == len(TENSORS)


def test_commands_take_an_index(
    tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export names the index and finds it again; its default name is that of the shards."""
    monkeypatch.chdir(tmp_path)
    index = save_shards(TENSORS, tmp_path)
    exported = run_here("onnx", index.name, "--upsampler-alpha", "0.5")
    assert exported.code == 0, exported.stderr
    assert (tmp_path / "model.onnx").exists()

    assert run_here("inspect", index.name).code == 0
    judged = run_here("parity", "model.onnx", *SIZES, "--json")
    assert judged.code == 0, judged.stderr
    assert f"judged against {index.name}" in judged.stdout
    assert (
        run_here("parity", index.name, "model.onnx", "--upsampler-alpha", "0.5", *SIZES).code == 0
    )

    shards_of(index)[0].write_bytes(b"changed")
    assert run_here("parity", "model.onnx", *SIZES).code == 3


def test_a_shard_is_never_overwritten(tmp_path: Path, run_here: RunHere) -> None:
    """Shards are inputs as the index is."""
    index = save_shards(TENSORS, tmp_path)
    shard = shards_of(index)[1]
    before = shard.read_bytes()

    done = run_here("onnx", str(index), "--fp16", "-o", "a.onnx", "--audit", str(shard))

    assert done.code == 3
    assert "is also the source" in done.stderr
    assert shard.read_bytes() == before
