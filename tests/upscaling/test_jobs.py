"""Jobs: which files are found, what they become, and what is refused before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from paragon_export.errors import PlanError
from paragon_export.media.pictures import read_picture
from paragon_export.system.private_folder import PREFIX
from paragon_export.testing.tiny import tiny_checkpoint
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.jobs import jobs_of
from tests.conftest import RunHere


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 40, 90)).save(path)
    return path


def test_an_input_that_is_named_twice_is_done_once(tmp_path: Path) -> None:
    one = picture(tmp_path / "in/a.png")
    found = jobs_of([tmp_path / "in", one, one], tmp_path / "out", None)
    assert [job.source for job in found.jobs] == [one]


@pytest.mark.skipif(os.name == "nt", reason="Windows asks for a privilege to make links")
def test_links_to_folders_are_counted_and_not_followed(tmp_path: Path) -> None:
    one, other = picture(tmp_path / "in/a.png"), picture(tmp_path / "other/b.png")
    (tmp_path / "in/linked").symlink_to(other.parent)
    (tmp_path / "in/loop").symlink_to(one.parent)
    (tmp_path / "in/.hidden").symlink_to(other.parent)
    found = jobs_of([tmp_path / "in"], tmp_path / "out", None)
    assert [job.source for job in found.jobs] == [one]
    assert found.notes == ["links to folders, which are not searched: 2; name them as inputs"]
    named = jobs_of([tmp_path / "in/linked"], tmp_path / "out", None)
    assert [job.output for job in named.jobs] == [tmp_path / "out/b.png"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("plain", "-o plain is a file, and not named as a picture or video; give a folder"),
        ("none/x.png", "folder none does not exist"),
        ("plain/x.png", "folder plain does not exist"),
        ("x.gif", "pictures are not written as '.gif'"),
        ("x.avi", "pictures are not written as '.avi'"),
        ("x.mkv", "a.png does not become x.mkv"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_the_model_is_read(
    output: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture(Path("a.png"))
    Path("plain").touch()
    with pytest.raises(PlanError) as raised:
        upscale("there is no model", "a.png", output)
    assert words in str(raised.value)
    assert sorted(os.listdir()) == ["a.png", "plain"]


def test_a_folder_may_be_named_as_a_file(tmp_path: Path) -> None:
    one = picture(tmp_path / "a.png")
    (tmp_path / "x.gif").mkdir()
    assert jobs_of([one], tmp_path / "x.gif", None).jobs[0].output == tmp_path / "x.gif/a.png"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow line breaks in names")
def test_a_name_with_a_line_break_is_one_line(
    tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    picture(tmp_path / "a\nwrote b.png")
    done = run_here("upscale", tiny_realtime, "a\nwrote b.png", "-o", "out")
    assert done.code == 0
    assert len(done.stdout.splitlines()) == 2
    assert (tmp_path / "out/a\nwrote b.png").is_file()


@pytest.mark.processes
def test_what_killed_runs_left_is_removed(tiny_realtime: Path, tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path\n"
        "from paragon_export.system.atomic_write import writing\n"
        "with writing([Path(sys.argv[1])]) as folder:\n"
        "    (folder / Path(sys.argv[1]).name).write_bytes(b'half')\n"
        "    os._exit(1)\n"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", killed, str(folder / "a.png")], check=False)
    assert list(folder.glob(f"{PREFIX}*"))
    assert upscale(tiny_realtime, picture(tmp_path / "a.png"), folder).passed
    assert os.listdir(folder) == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_profile_of_gray_is_kept(channels: int, tmp_path: Path) -> None:
    """Colors lose theirs where a network makes gray of them."""
    profile = bytes(16) + b"GRAY" + bytes(108)
    checkpoint = tiny_checkpoint(tmp_path / "net.safetensors", in_channels=channels)
    Image.new("L", (8, 6), 90).save(tmp_path / "a.png", icc_profile=profile)
    assert upscale(checkpoint, tmp_path / "a.png", tmp_path / "b.png").passed
    assert read_picture(tmp_path / "b.png").icc == profile
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (8, 6), (90, 20, 70)).save(tmp_path / "c.png", icc_profile=srgb)
    assert upscale(checkpoint, tmp_path / "c.png", tmp_path / "d.png").passed
    assert read_picture(tmp_path / "d.png").icc == (None if channels == 1 else srgb)
