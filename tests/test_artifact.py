"""Artifacts: written whole or not at all; what was there stays until it is replaced."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import pytest

from paragon_export.artifact import check_writable, sha256_of, staged, to_json, write_text
from paragon_export.errors import PlanError


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def interrupted(target: Path, error: type[BaseException]) -> None:
    """Stop in the middle of writing a file."""
    with staged(target) as file:
        file.path.write_bytes(b"half")
        raise error("stop")


def test_success_replaces(tmp_path: Path) -> None:
    """A body that ends puts the new file in place of the old one and leaves nothing else."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with staged(target) as file:
        assert file.path.name == target.name
        assert file.path.is_relative_to(tmp_path)  # on the same file system
        file.path.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names_in(tmp_path) == {"model.onnx"}


def test_success_creates(tmp_path: Path) -> None:
    """A file that was not there appears with the permissions that a new file has."""
    target, plain = tmp_path / "model.onnx", tmp_path / "plain"
    with staged(target) as file:
        file.path.write_bytes(b"new")
    plain.write_bytes(b"")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, PlanError])
def test_exception_keeps_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    """A body that raises leaves the old file, nothing half written, and its own exception."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(error, match="stop"):
        interrupted(target, error)
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == {"model.onnx"}


def test_exception_without_an_old_file(tmp_path: Path) -> None:
    """A body that raises where nothing was leaves nothing."""
    with pytest.raises(RuntimeError, match="stop"):
        interrupted(tmp_path / "model.onnx", RuntimeError)
    assert names_in(tmp_path) == set()


def test_keep_false_keeps_the_old(tmp_path: Path) -> None:
    """A body that clears keep throws its own file away."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with staged(target) as file:
        file.path.write_bytes(b"failed")
        file.keep = False
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == {"model.onnx"}


def test_body_that_writes_nothing(tmp_path: Path) -> None:
    """A body that forgets to write is told so, and the old file stays."""
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(PlanError, match="cannot write"), staged(target):
        pass
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["missing/model.onnx", "file/model.onnx"])
def test_unwritable_folder(tmp_path: Path, name: str) -> None:
    """A folder that is not there, or is a file, is refused in one line before the body runs."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PlanError, match="cannot write") as caught, staged(tmp_path / name):
        pytest.fail("the body ran")
    assert "\n" not in str(caught.value)
    with pytest.raises(PlanError, match="cannot write"):
        check_writable(tmp_path / name)
    with pytest.raises(PlanError, match="cannot write"):
        write_text(tmp_path / name, "text")
    assert names_in(tmp_path) == {"file"}


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    """A folder at the output's place is refused and stays."""
    target = tmp_path / "model.onnx"
    target.mkdir()
    (target / "inside").write_bytes(b"kept")
    with pytest.raises(PlanError, match="is a folder"):
        check_writable(target)
    with pytest.raises(PlanError, match="cannot write"), staged(target) as file:
        file.path.write_bytes(b"new")
    assert (target / "inside").read_bytes() == b"kept"


def test_check_leaves_no_trace(tmp_path: Path) -> None:
    """Asking whether a file can be written writes none."""
    target = tmp_path / "model.onnx"
    check_writable(target)
    assert names_in(tmp_path) == set()
    target.write_bytes(b"old")
    check_writable(target)
    assert target.read_bytes() == b"old"


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare file name is written to the working folder."""
    monkeypatch.chdir(tmp_path)
    check_writable(Path("model.onnx"))
    write_text(Path("model.onnx"), "text")
    assert names_in(tmp_path) == {"model.onnx"}


def test_longest_name(tmp_path: Path) -> None:
    """A name as long as the file system allows can be written."""
    name = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 5) + ".onnx"
    write_text(tmp_path / name, "text")
    assert names_in(tmp_path) == {name}


def test_text_is_utf8(tmp_path: Path) -> None:
    """Text is written as UTF-8, whole."""
    write_text(tmp_path / "report.md", "größer: 4²\n")
    assert (tmp_path / "report.md").read_bytes() == "größer: 4²\n".encode()


def test_sha256(tmp_path: Path) -> None:
    """The hash is that of the file's bytes."""
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_json_is_strict() -> None:
    """JSON keeps its order and has no NaN."""
    assert json.loads(to_json({"b": 1, "a": [1.5, None, "ü"]})) == {"b": 1, "a": [1.5, None, "ü"]}
    assert to_json({"b": 1, "a": 2}).index('"b"') < to_json({"b": 1, "a": 2}).index('"a"')
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": math.nan})
