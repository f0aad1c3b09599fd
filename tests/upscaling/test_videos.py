"""``upscale``: videos in, videos of the network out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from paragon_export.assets import photograph
from paragon_export.errors import PlanError
from paragon_export.media.videos import VideoForm, upscale_video
from paragon_export.media.videos.colors import Coding, planes_of, rgb_of
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.open import open_runner
from paragon_export.specs.plans import NetworkOptions
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.testing.clips import write_clip
from paragon_export.testing.tiny import tiny_checkpoint
from paragon_export.upscaling.flow import upscale
from paragon_export.upscaling.model import open_model
from paragon_export.upscaling.tiles import Tiling
from paragon_export.upscaling.videos import upscaler_of
from tests.conftest import RunHere, shell_environment

FULL = Coding(1, True, 10, 1, 1)
"""Of clips that hold colors almost as they are."""

LEVEL = 2 / 1023
"""More than the rounding to 10 bits."""


def pictures(count: int, size: tuple[int, int] = (28, 36)) -> list[np.ndarray]:
    """Return crops of the photograph; the second half is another scene."""
    moved = [photograph()[60:, 2 * i :][: size[0], : size[1]] for i in range(count // 2)]
    other = [
        1 - photograph()[160:, 2 * i :][: size[0], : size[1]] for i in range(count - count // 2)
    ]
    return [np.ascontiguousarray(crop.transpose(2, 0, 1))[None] for crop in moved + other]


def clip(path: Path, count: int = 6, **how: Any) -> Path:
    """Write a lossless clip of 10 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [planes_of(picture, FULL) for picture in pictures(count)]
    write_clip(path, frames, pixel_format="yuv444p10le", is_full=True, **how)
    return path


def shown(path: Path) -> list[np.ndarray]:
    """Return the frames of a clip as RGB."""
    with av.open(str(path)) as file:
        return [rgb_of(_planes(frame), FULL) for frame in file.decode(video=0)]


def _planes(frame: Any) -> list[np.ndarray]:
    assert frame.format.name == "yuv444p10le"
    return [
        np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, -1)[:, : plane.width]
        for plane in frame.planes
    ]


def upscaled(
    model: Path, source: Path, output: Path, tile: str | Size = "none"
) -> list[np.ndarray]:
    """Return the frames of a lossless video that a model makes."""
    opened = open_model(model, OnnxBackend.ONNXRUNTIME, NetworkOptions())
    form = VideoForm(codec="ffv1")
    upscale_video(source, output, upscaler_of(Tiling(opened, tile)), scale=2, run="", form=form)
    return shown(output)


def worst(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the largest difference of two videos."""
    assert len(found) == len(expected)
    return max(
        float(np.abs(a - np.clip(b, 0, 1)).max()) for a, b in zip(found, expected, strict=True)
    )


def test_the_frames_are_those_of_the_network(tiny_realtime: Path, tmp_path: Path) -> None:
    export_onnx(tiny_realtime, tmp_path / "o.onnx")
    source = clip(tmp_path / "a.mkv")
    runner = open_runner(tmp_path / "o.onnx")
    expected = [runner.infer({"input": frame})["output"] for frame in shown(source)]
    for model in (tiny_realtime, tmp_path / "o.onnx"):
        assert worst(upscaled(model, source, tmp_path / "b.mkv"), expected) < LEVEL
    tiled = upscaled(tiny_realtime, source, tmp_path / "b.mkv", Size(26, 30))
    assert worst(tiled, expected) < LEVEL


def test_video_networks_carry_features_until_a_scene_ends(
    tiny_realtime: Path, tmp_path: Path
) -> None:
    """Each frame gets the features of the one before, at 0.2; the first of a scene none."""
    model, source = tmp_path / "v.onnx", clip(tmp_path / "a.mkv")
    export_onnx(tiny_realtime, model, video=True)
    runner, expected, found = open_runner(model), [], {}
    for number, frame in enumerate(shown(source)):
        features = (
            np.zeros((1, 8, 28, 36), np.float32) if number in (0, 3) else found["feature_map"]
        )
        alpha = np.float32(0 if number in (0, 3) else 0.2)
        found = runner.infer({"input": frame, "prev_feat": features, "alpha": alpha})
        expected.append(found["output"])
    stills = [runner.infer({"input": frame, "prev_feat": 0 * features, "alpha": np.float32(0)})["output"]
              for frame in shown(source)]  # fmt: skip
    frames = upscaled(model, source, tmp_path / "b.mkv")
    assert worst(frames, expected) < LEVEL
    assert worst(frames, stills) > 3 * LEVEL
    with pytest.raises(PlanError, match="carries features from frame to frame"):
        upscale(model, source, tmp_path / "c.mkv", tile="64x64")


def test_folders_may_hold_both(tiny_realtime: Path, tmp_path: Path, run_here: RunHere) -> None:
    from PIL import Image

    clip(tmp_path / "in/deep/a.mkv", sound="aac")
    clip(tmp_path / "in/b.nut", count=4)
    Image.new("RGB", (8, 8)).save(tmp_path / "in/c.png")
    (tmp_path / "in/broken.mp4").write_bytes(b"no video")
    done = run_here("upscale", tiny_realtime, "in", "-o", "out", "--json", "--format", "jpg")
    assert done.code == 1
    assert [line for line in done.stderr.splitlines() if "broken.mp4" in line] == [
        "note: failed: in/broken.mp4: cannot read in/broken.mp4: Invalid data found when processing input"
    ]
    document = json.loads(done.stdout)
    outputs = {one["output"]: one["frames"] for one in document["done"]}
    assert outputs == {"out/c.jpg": None, "out/deep/a.mkv": 6, "out/b.mkv": 4}
    assert [one["source"] for one in document["failed"]] == ["in/broken.mp4"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == [
        "a.mkv",
        "b.mkv",
        "c.jpg",
    ]
    again = run_here("upscale", tiny_realtime, "in", "-o", "out", "--json", "--skip-existing",
                     "--format", "jpg")  # fmt: skip
    assert len(json.loads(again.stdout)["skipped"]) == 3


def test_what_is_shown(tiny_realtime: Path, tmp_path: Path, run_here: RunHere) -> None:
    clip(tmp_path / "a.mkv")
    done = run_here(
        "upscale", tiny_realtime, "a.mkv", "-o", "b.mp4", "--fit", "20x40", "--quality", "90"
    )
    assert (done.code, done.stdout.splitlines()[0]) == (0, "wrote b.mp4 (28x36 to 20x26, 6 frames)")
    assert "frames/s" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mkv", "-o", "b.png"], "a.mkv does not become b.png; name a .mkv, .mp4"),
        (["c.png", "-o", "b.mkv"], "c.png does not become b.mkv; name a .png"),
        (["a.mkv", "-o", "b.mkv", "--format", "mp4"], "contradict"),
        (["a.mkv", "c.png", "-o", "b.mkv"], "give a folder for several inputs"),
        (["a.mkv", "d/a.avi", "-o", "out", "--format", "mkv"], "would both become"),
    ],
)
def test_refusals(
    arguments: list[str], words: str, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    (tmp_path / "d").mkdir()
    for name in ("a.mkv", "c.png", "d/a.avi"):
        (tmp_path / name).write_bytes(b"")
    done = run_here("upscale", tiny_realtime, *arguments)
    assert done.code == 3
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.processes
def test_a_killed_run_is_resumed(tiny_realtime: Path, tmp_path: Path) -> None:
    """The frames are those of a run that was not killed."""
    source = tmp_path / "a.mkv"
    chroma = np.full((4, 4), 128, np.uint8)
    write_clip(
        source, [[np.full((8, 8), 40 + n % 100, np.uint8), chroma, chroma] for n in range(700)]
    )
    command = [sys.executable, "-m", "paragon_export", "upscale", str(tiny_realtime), "a.mkv", "-o"]

    def run(output: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, output], cwd=tmp_path, env=shell_environment())

    assert run("whole.mkv").wait() == 0
    killed = run("b.mkv")
    while not (tmp_path / ".b.mkv.unfinished/000000.json").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "b.mkv").exists()
    assert run("b.mkv").wait() == 0
    packets = []
    for name in ("whole.mkv", "b.mkv"):
        with av.open(str(tmp_path / name)) as file:
            packets.append([(p.pts, bytes(p)) for p in file.demux(video=0) if p.size])
    assert packets[0] == packets[1]
    assert not list(tmp_path.glob(".*"))


def test_runs_that_compute_otherwise_are_told_apart(
    tiny_realtime: Path, tiny_stream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run resumes another one only if network, options and tiles are the same."""
    seen: list[str] = []

    def note_run(*_: object, run: str, **__: object) -> None:
        seen.append(run)
        raise PlanError("enough")

    monkeypatch.setattr("paragon_export.upscaling.videos.upscale_video", note_run)
    (tmp_path / "a.mkv").write_bytes(b"")
    first: dict[str, Any] = {"model": tiny_realtime}
    for change in ({}, {}, {"model": tiny_stream}, {"tile": "64x64"}, {"backend": "openvino"},
                   {"options": NetworkOptions(flags={"upsampler_alpha": 0.5})}):  # fmt: skip
        upscale(inputs=tmp_path / "a.mkv", output=tmp_path / "b.mkv", **{**first, **change})
    assert seen[0] == seen[1]
    assert len(set(seen)) == 5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_gray_network_says_so(channels: int, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "net.safetensors", in_channels=channels)
    result = upscale(checkpoint, clip(tmp_path / "a.mkv", 2), tmp_path / "b.mkv")
    assert result.passed
    assert any("luma alone" in text for text in result.notes) == (channels == 1)
