"""Segments that are made in any order: those of a run over the whole video, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paragon_export.errors import PlanError
from paragon_export.media.videos import Upscaler, VideoForm, upscale_video, writing
from paragon_export.media.videos.flow import Work, opened_work
from paragon_export.media.videos.frames import to_frame
from paragon_export.media.videos.segments import Made, SegmentMaker
from paragon_export.testing.clips import write_clip
from tests.media.videos.test_flow import VALUES, Adding, gray_frames, packets_in, run, twice

FORM = VideoForm(segment_frames=4)


@contextmanager
def opened(source: Path, output: Path) -> Iterator[Work]:
    with opened_work(source, output, scale=2, run="twice", form=FORM) as work:
        yield work


def clip(folder: Path, count: int = 18, **how: Any) -> Path:
    write_clip(folder / "clip.mkv", gray_frames(VALUES[:count]), sound="aac", **how)
    return folder / "clip.mkv"


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 1, 0, 3, 2], [2, 2, 4, 0, 1, 3, 0]])
def test_any_order_gives_the_same_file(order: list[int], tmp_path: Path) -> None:
    """A segment may be made twice; then the second is that of the first."""
    source = clip(tmp_path)
    run(source, tmp_path / "whole.mkv", segment_frames=4)
    with opened(source, tmp_path / "out.mkv") as work:
        maker = SegmentMaker(work.plan, twice)
        made = {number: maker.make(number) for number in order}
        work.unfinished.find()
        assert work.finish(0, 0).frames == 18
    assert made == {number: Made(4 if number < 4 else 2, 0) for number in range(5)}
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_after_the_end_there_is_nothing(tmp_path: Path) -> None:
    """A video of whole segments ends with one of no frames, which leaves no file."""
    source = clip(tmp_path, 8)
    with opened(source, tmp_path / "out.mkv") as work:
        maker = SegmentMaker(work.plan, twice)
        assert [maker.make(number).frames for number in (5, 2, 1, 0)] == [0, 0, 4, 4]
        work.unfinished.find()
        assert sorted(path.suffix for path in work.plan.folder.iterdir()) == [
            "", ".json", ".json", ".json", ".nut", ".nut",
        ]  # fmt: skip
        assert work.finish(0, 0).frames == 8


def test_one_process_goes_on_with_them_and_they_with_it(tmp_path: Path) -> None:
    """What others finished after a gap is kept, and neither way loses or repeats a frame."""
    source, output = clip(tmp_path), tmp_path / "out.mkv"
    run(source, tmp_path / "whole.mkv", segment_frames=4)
    with opened(source, output) as work:
        maker = SegmentMaker(work.plan, twice)
        for number in (1, 3):
            maker.make(number)
    with opened(source, output) as work:
        assert [work.unfinished.frames_in(number) for number in range(5)] == [
            None,
            4,
            None,
            4,
            None,
        ]
        assert work.unfinished.frames == 0
        SegmentMaker(work.plan, twice).make(0)
    network = Adding()
    result = run(source, output, Upscaler(lambda frame: (network.compute(frame), twice(frame))[1]),
                 segment_frames=4)  # fmt: skip
    assert (result.resumed, network.computed) == (8, 10)
    assert packets_in(output, "video") == packets_in(tmp_path / "whole.mkv", "video")


def test_damaged_packets_are_counted_as_by_one_process(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(range(40, 60, 2)), pixel_format="yuvj420p", codec="mjpeg")
    data = source.read_bytes()
    for number in (1, 4):
        content = packets_in(source, "video")[number][1]
        data = data.replace(content, bytes(len(content)))
    source.write_bytes(data)
    run(source, tmp_path / "whole.mkv", segment_frames=4)
    with opened(source, tmp_path / "out.mkv") as work:
        maker = SegmentMaker(work.plan, twice)
        assert [maker.make(number) for number in (1, 2, 0)][1] == Made(0, 2)
        work.unfinished.find()
        assert work.finish(0, 2).notes[-1] == "2 packets cannot be decoded, and are left out"
    assert (tmp_path / "out.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()


def test_a_network_that_fails_leaves_no_segment(tmp_path: Path) -> None:
    source = clip(tmp_path)

    def fails(frame: np.ndarray) -> np.ndarray:
        raise PlanError("no")

    with opened(source, tmp_path / "out.mkv") as work:
        with pytest.raises(PlanError, match="no"):
            SegmentMaker(work.plan, fails).make(1)
        assert work.unfinished.frames_in(1) is None
    assert not list(tmp_path.glob(".*"))


def test_segments_of_another_run_are_thrown_away(tmp_path: Path) -> None:
    source = clip(tmp_path)
    with opened(source, tmp_path / "out.mkv") as work:
        SegmentMaker(work.plan, twice).make(1)
    with opened_work(source, tmp_path / "out.mkv", scale=2, run="other", form=FORM) as work:
        assert work.unfinished.frames_in(1) is None
    shutil.rmtree(tmp_path / ".out.mkv.unfinished", ignore_errors=True)
    assert (
        upscale_video(source, tmp_path / "out.mkv", Upscaler(twice), scale=2, run="").frames == 18
    )


def test_equal_frames_are_equal_bytes(tmp_path: Path) -> None:
    """Every time: with AVX-512 of libx264 every fifth segment of these frames was another one."""
    noise = np.random.default_rng(0).normal(0, 0.02, (1, 3, 64, 96)).cumsum(axis=3) + 0.5
    rgb = [np.roll(noise, number, axis=2).astype(np.float32).clip(0, 1) for number in range(60)]
    with opened(clip(tmp_path), tmp_path / "out.mkv") as work:
        coding, pixel_format = work.plan.encoding.coding, work.plan.encoding.pixel_format
        frames = [to_frame(image, coding, pixel_format) for image in rgb * 4]
        found = set()
        for number in range(24):
            path = tmp_path / f"{number}.nut"
            segment = writing.Segment.create(path, work.plan.encoding, work.plan.facts)
            for time, frame in enumerate(frames):
                segment.write(frame, time * 512, 512)
            segment.close()
            found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(("has", "options"), [(True, {"x264-params": "asm=AVX2"}), (False, {})])
def test_libx264_is_kept_from_avx512(
    has: bool, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the processor has it; elsewhere libx264 chooses, or it would use AVX2 without asking."""
    core = getattr(np, "_core", None) or np.core
    monkeypatch.setitem(core._multiarray_umath.__cpu_features__, "AVX512F", has)
    assert writing._without_avx512() == options
