"""Files: written complete or not at all; nothing of the user's is moved, overwritten or removed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from paragon_export.errors import PlanError
from paragon_export.system.atomic_write import (
    check_writable,
    sha256_of,
    to_json,
    write_files,
    write_text,
)
from paragon_export.system.private_folder import LOCK, PREFIX


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, str]:
    """Return what lies in a folder, links as links, without following any."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = f"file {hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            found[name] = f"mode {stat.S_IFMT(path.lstat().st_mode):o}"
    return found


def test_success_replaces(tmp_path: Path) -> None:
    """New files take the place of old ones, and nothing else is left."""
    target, other = tmp_path / "model.onnx", tmp_path / "model.json"
    target.write_bytes(b"old")
    write_files({target: b"new", other: b"{}"})
    assert (target.read_bytes(), other.read_bytes()) == (b"new", b"{}")
    assert names_in(tmp_path) == {"model.onnx", "model.json"}


def test_success_creates(tmp_path: Path) -> None:
    """A file that was not there appears with the permissions that a new file has."""
    target, plain = tmp_path / "model.onnx", tmp_path / "plain"
    write_files({target: b"new"})
    plain.write_bytes(b"")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """An output that is a link becomes a file; the file elsewhere is not written to."""
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "model.onnx"
    elsewhere.write_bytes(b"kept")
    target.symlink_to(elsewhere)
    write_files({target: b"new"})
    assert elsewhere.read_bytes() == b"kept"
    assert (target.read_bytes(), target.is_symlink()) == (b"new", False)


@pytest.mark.parametrize("name", ["missing/model.onnx", "file/model.onnx"])
def test_unwritable_folder(tmp_path: Path, name: str) -> None:
    """A folder that is not there, or is a file, is refused in one line."""
    (tmp_path / "file").write_bytes(b"")
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(PlanError, match="cannot write") as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert names_in(tmp_path) == {"file"}


def test_folder_is_not_replaced(tmp_path: Path) -> None:
    """A folder at the output's place is refused and stays."""
    target = tmp_path / "model.onnx"
    target.mkdir()
    (target / "inside").write_bytes(b"kept")
    with pytest.raises(PlanError, match="is a folder"):
        check_writable(target)
    with pytest.raises(PlanError, match="cannot write"):
        write_files({target: b"new"})
    assert (target / "inside").read_bytes() == b"kept"


def test_pipes_and_devices_are_not_replaced(tmp_path: Path) -> None:
    """Root may rename a file over a pipe or /dev/null; nobody wants that."""
    target = tmp_path / "model.onnx"
    os.mkfifo(target)
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(PlanError, match="a pipe, socket or device"):
            write(target)
    with pytest.raises(PlanError, match="a pipe, socket or device"):
        check_writable(Path(os.devnull))
    assert stat.S_ISFIFO(target.lstat().st_mode)


def test_a_file_that_nobody_named_is_kept(tmp_path: Path) -> None:
    """Names that the tool chooses are given to files of its own only."""
    target = tmp_path / "net.engine.json"
    check_writable(target, named=False, is_ours=lambda path: False)
    target.write_text("mine")
    with pytest.raises(PlanError, match="was not written by this tool"):
        check_writable(target, named=False, is_ours=lambda path: False)
    check_writable(target, named=False, is_ours=lambda path: path == target)
    target.unlink()
    target.symlink_to("nowhere")
    with pytest.raises(PlanError, match="was not written by this tool"):
        check_writable(target, named=False, is_ours=lambda path: False)


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
    """A name as long as the file system allows can be written; a longer one is refused."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    name = "n" * (longest - 5) + ".onnx"
    write_text(tmp_path / name, "text")
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(PlanError, match="File name too long"):
            write(tmp_path / f"n{name}")
    assert names_in(tmp_path) == {name}


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Names are bytes to the system: any of them can be written and cleaned up after."""
    path = tmp_path / os.fsdecode(b"n\xff.onnx")
    write_text(path, f"name {path.name}\n")
    assert path.read_bytes() == b"name n\\udcff.onnx\n"


# --- what lies in the folder ---------------------------------------------------------------


def forged(folder: Path, names: list[str], identity: list[int] | None = None) -> Path:
    """Make what another run might have left, with files of these names."""
    folder.mkdir(mode=0o700)
    found = folder.lstat()
    record = {
        "folder": identity or [found.st_dev, found.st_ino],
        "files": [name.encode().hex() for name in names],
    }
    (folder / LOCK).write_text(json.dumps(record))
    for name in names:
        (folder / name).write_text("half")
    return folder


def test_what_a_dead_run_left_is_removed(tmp_path: Path) -> None:
    """The lock file names the folder itself: nothing but our run could have written it."""
    forged(tmp_path / f"{PREFIX}abcd", ["net.onnx", "net.json"])
    check_writable(tmp_path / "model.onnx")
    assert names_in(tmp_path) == set()


def _copied(folder: Path, outside: Path) -> None:
    """As an archive or a repository brings it: the identity is another folder's."""
    forged(folder, ["net.onnx"], [outside.lstat().st_dev, outside.lstat().st_ino])


def _with_more_inside(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"])
    (folder / "thesis.tex").write_text("kept")


def _readable_by_others(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"]).chmod(0o755)


def _link_inside(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"])
    (folder / "net.onnx").unlink()
    (folder / "net.onnx").symlink_to(outside / "thesis.tex")


def _hard_link_inside(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"])
    (folder / "net.onnx").unlink()
    os.link(outside / "thesis.tex", folder / "net.onnx")


def _linked_lock(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"])
    (folder / LOCK).rename(outside / LOCK)
    (folder / LOCK).symlink_to(outside / LOCK)


def _linked_folder(folder: Path, outside: Path) -> None:
    folder.symlink_to(forged(outside / "inner", ["net.onnx"]))


def _names_that_lead_outside(folder: Path, outside: Path) -> None:
    forged(folder, [])
    record = json.loads((folder / LOCK).read_text())
    record["files"] = [f"../../{outside.name}/thesis.tex".encode().hex()]
    (folder / LOCK).write_text(json.dumps(record))


def _pipe_for_a_lock(folder: Path, outside: Path) -> None:
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / LOCK)


def _no_record(folder: Path, outside: Path) -> None:
    forged(folder, ["net.onnx"])
    (folder / LOCK).write_text("[]")


def _empty(folder: Path, outside: Path) -> None:
    folder.mkdir(mode=0o700)


FOREIGN = [
    _copied, _with_more_inside, _readable_by_others, _link_inside, _hard_link_inside, _linked_lock,
    _linked_folder, _names_that_lead_outside, _pipe_for_a_lock, _no_record, _empty,
]  # fmt: skip


@pytest.mark.parametrize("plant", FOREIGN, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("name", ["abcd", "commit"])
def test_nothing_of_the_users_is_touched(tmp_path: Path, plant: object, name: str) -> None:
    """A folder is not ours because of its name, nor because it looks like one of ours."""
    here, outside = tmp_path / "here", tmp_path / "outside"
    here.mkdir()
    outside.mkdir()
    (outside / "thesis.tex").write_text("kept")
    plant(here / f"{PREFIX}{name}", outside)  # type: ignore[operator]
    before = contents(tmp_path)
    check_writable(here / "model.onnx")
    write_files({here / "model.onnx": b"new", here / "model.json": b"{}"})
    after = contents(tmp_path)
    assert {key: after.get(key) for key in before} == before
    assert set(after) - set(before) == {"here/model.onnx", "here/model.json"}


# --- contents ------------------------------------------------------------------------------


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
    """JSON keeps its order and has null for NaN and infinity."""
    assert json.loads(to_json({"b": 1, "a": [1.5, None, "ü"]})) == {"b": 1, "a": [1.5, None, "ü"]}
    assert to_json({"b": 1, "a": 2}).index('"b"') < to_json({"b": 1, "a": 2}).index('"a"')
    assert json.loads(to_json({"a": [math.nan, math.inf, -math.inf]})) == {"a": [None] * 3}


@pytest.mark.processes
def test_no_folder_is_created_while_the_process_ends(tmp_path: Path) -> None:
    """Threads that go on meanwhile would leave theirs."""
    code = (
        "import os, sys, threading, time\n"
        "from pathlib import Path\n"
        "from paragon_export.system import private_folder as module\n"
        "parent = Path(sys.argv[1])\n"
        "def create():\n"
        "    while True:\n"
        "        with module.private_folder(parent, ['a']) as folder:\n"
        "            (folder.path / 'a').touch()\n"
        "            time.sleep(0.001)\n"
        "for _ in range(4):\n"
        "    threading.Thread(target=create, daemon=True).start()\n"
        "time.sleep(0.1)\n"
        "module._remove_unfinished()\n"
        "time.sleep(0.1)\n"
        "os._exit(0)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, stderr=subprocess.DEVNULL
    )
    assert not list(tmp_path.iterdir())
