"""Indices and shards that do not fit each other, or name files that they must not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.checkpoints import shards
from paragon_export.checkpoints.load import load_checkpoint
from paragon_export.errors import CheckpointError
from paragon_export.testing import hostile
from paragon_export.testing.tiny import save, save_shards
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import RunHere

TENSORS = {name: np.full(3, i, np.float32) for i, name in enumerate("abcd")}

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
"""Hold a and c, b and d."""


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return the index of two good shards."""
    return save_shards(TENSORS, tmp_path)


def refusal(index: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(index)
    message = str(caught.value)
    assert str(index) in message
    assert len(message.splitlines()) == 1
    return message


def rewrite(index: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the ``weight_map`` of an index."""
    document = json.loads(index.read_text(encoding="utf-8"))
    change(document["weight_map"])
    index.write_text(json.dumps(document), encoding="utf-8")


def resave(index: Path, shard: str, names: str) -> None:
    save({name: TENSORS[name] for name in names}, index.parent / shard)


# --- shards that do not fit ---------------------------------------------------------------


def test_a_missing_shard_is_named(index: Path, run_here: RunHere) -> None:
    (index.parent / SECOND).unlink()

    assert f"{SECOND}: No such file" in refusal(index)
    assert_one_helpful_line(run_here("inspect", str(index)), SECOND)


def test_a_tensor_that_is_not_in_its_shard_is_named(index: Path) -> None:
    resave(index, SECOND, "b")

    assert f"tensor d is not in {SECOND}, where the index lists it" in refusal(index)


def test_a_tensor_that_is_not_listed_is_named(index: Path) -> None:
    rewrite(index, lambda weight_map: weight_map.pop("c"))

    assert f"shard {FIRST} holds tensor c, and the index does not list it" in refusal(index)


def test_a_tensor_in_another_shard_is_named(index: Path) -> None:
    resave(index, FIRST, "acd")

    assert f"shard {FIRST} holds tensor d, and the index lists it in {SECOND}" in refusal(index)


def test_a_tensor_in_two_shards_is_named(index: Path) -> None:
    resave(index, SECOND, "abd")

    assert f"tensor a is in two shards, {FIRST} and {SECOND}" in refusal(index)


def test_a_damaged_shard_is_named(index: Path) -> None:
    path = index.parent / FIRST
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=FIRST):
        load_checkpoint(index)


@pytest.mark.parametrize("kind", list(hostile.code_files(Path("canary")))[:8])
def test_code_in_a_shard_never_runs(kind: str, index: Path) -> None:
    (index.parent / FIRST).write_bytes(hostile.code_files(index.parent / "canary")[kind])
    before = listing(index.parent)
    with pytest.raises(CheckpointError, match=FIRST):
        load_checkpoint(index)
    assert listing(index.parent) == before


def test_a_shard_with_containers_is_refused(index: Path) -> None:
    """Which of several sets of weights an index means would be a guess."""
    inside = {name: TENSORS[name] for name in "ac"}
    save(inside, index.parent / FIRST, fmt="pth", container="params")

    assert f"shard {FIRST} holds its tensors under params" in refusal(index)


def test_shards_are_limited_together(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits, and both together do not."""
    size = (index.parent / FIRST).stat().st_size
    monkeypatch.setattr("paragon_export.checkpoints.load.MAX_FILE_BYTES", size + 100)
    assert f"{SECOND}: it has {size} bytes" in refusal(index)
    monkeypatch.undo()

    monkeypatch.setattr("paragon_export.checkpoints.formats.MAX_TENSORS", 3)
    assert "holds 4 tensors; at most 3" in refusal(index)
    monkeypatch.undo()

    monkeypatch.setattr("paragon_export.checkpoints.formats.MAX_WEIGHTS_BYTES", 47)
    assert "48 bytes in float32" in refusal(index)


def test_a_pipe_for_a_shard_is_not_waited_for(index: Path) -> None:
    (index.parent / FIRST).unlink()
    os.mkfifo(index.parent / FIRST)

    assert "found a pipe" in refusal(index)


# --- indices that are none ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\b", "C:x", "a\0b",
     ".hidden", None, 1, ["x"], {"x": 1}, True],
)  # fmt: skip
def test_shards_outside_the_folder_are_refused_unread(
    name: Any, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensor and the name are in the message; no other file than the index is opened."""
    rewrite(index, lambda weight_map: weight_map.update(b=name))
    opened: list[Path] = []

    def record(path: Path, *_: object) -> bytes:
        opened.append(path)
        return b""

    monkeypatch.setattr(shards, "read_bytes", record)

    assert "tensor b is listed in" in refusal(index)
    assert not opened


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"{", "expected JSON"),
        (b"no JSON", "expected JSON"),
        (b"\xff\xfe{}", "expected JSON"),
        (b"\x80\x02N.", "PyTorch checkpoint"),
        (b"[]", "expected a JSON object"),
        (b"{}", "expected the entry weight_map"),
        (b'{"weight_map": {}}', "expected the entry weight_map"),
        (b'{"weight_map": ["a"]}', "expected the entry weight_map"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "key 'a' appears twice"),
        (b'{"weight_map": {"a": "x"}, "weight_map": {"a": "x"}}', "'weight_map' appears twice"),
        (b'{"weight_map": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "nested too deeply"),
        (b'{"weight_map": {"a": NaN}}', "not a JSON number"),
        (b"", "empty"),
    ],
)
def test_what_is_no_index_is_refused(text: bytes, word: str, index: Path) -> None:
    index.write_bytes(text)

    assert word in refusal(index)


def test_indices_have_limits(index: Path) -> None:
    """In bytes and in shards."""
    index.write_bytes(b"{" + b" " * shards.MAX_INDEX_BYTES + b"}")
    assert f"at most {shards.MAX_INDEX_BYTES}" in refusal(index)

    many = {f"t{i}": f"s{i}" for i in range(shards.MAX_SHARDS + 1)}
    index.write_text(json.dumps({"weight_map": many}), encoding="utf-8")
    assert f"at most {shards.MAX_SHARDS}" in refusal(index)


def test_an_index_that_names_itself_is_refused(index: Path) -> None:
    """An index is no shard."""
    rewrite(index, lambda weight_map: weight_map.update(dict.fromkeys(weight_map, index.name)))

    assert "is not a checkpoint" in refusal(index)


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nb", "\u202e", "x" * 5000])
def test_names_do_not_reach_the_terminal_raw(name: str, index: Path, run_here: RunHere) -> None:
    for change in ({"b": name}, {name: "../x"}, {name: SECOND}):
        rewrite(index, lambda weight_map, change=change: weight_map.update(change))  # type: ignore[misc]
        done = run_here("inspect", str(index))
        assert_one_helpful_line(done, "paragon-export")
        assert done.stderr[:-1].isprintable()
