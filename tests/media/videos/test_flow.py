"""Videos: what comes out of a clip that goes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from paragon_export.errors import PlanError
from paragon_export.media.videos import Upscaler, VideoForm, VideoResult, flow, upscale_video
from paragon_export.media.videos.colors import Coding, planes_of
from paragon_export.media.videos.flow import Remembered
from paragon_export.media.videos.reading import main_stream
from paragon_export.specs.types import Size
from paragon_export.testing.clips import ATTACHMENT, write_clip

PATCHES = [(0.8, 0.1, 0.2), (0.1, 0.7, 0.3), (0.2, 0.3, 0.9), (0.5, 0.5, 0.5), (1, 1, 1), (0, 0, 0)]

ODD_TIMES = [0, 1000, 1512, 2024, 3024, 3536, 4048, 5048, 5560, 6072, 7072, 7584]


def twice(frame: np.ndarray) -> np.ndarray:
    """Upscale a frame by repeating its pixels."""
    return frame.repeat(2, axis=2).repeat(2, axis=3)


def patches(
    coding: Coding, count: int = 12, size: tuple[int, int] = (32, 48)
) -> list[list[np.ndarray]]:
    """Return frames of six flat patches, 16x16 each."""
    colors = np.float32(PATCHES).reshape(2, 3, 3).transpose(2, 0, 1)
    rgb = colors.repeat(16, axis=1).repeat(16, axis=2)[None, :, : size[0], : size[1]]
    return [planes_of(rgb, coding)] * count


def gray_frames(values: Sequence[int], size: tuple[int, int] = (32, 48)) -> list[list[np.ndarray]]:
    """Return frames of 4:2:0 with one luma each."""
    chroma = np.full((size[0] // 2, size[1] // 2), 128, np.uint8)
    return [[np.full(size, value, np.uint8), chroma, chroma] for value in values]


def run(source: Path, output: Path, upscaler: Upscaler | None = None, **form: Any) -> VideoResult:
    """Upscale a clip twofold."""
    return upscale_video(
        source, output, upscaler or Upscaler(twice), scale=2, run="twice", form=VideoForm(**form)
    )


def frames_in(path: Path) -> list[Any]:
    """Return all frames of a file."""
    with av.open(str(path)) as file:
        return list(file.decode(file.streams.video[0]))


def times_in(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames_in(path)]


def packets_in(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Return times and contents of the packets of the first stream of a kind."""
    with av.open(str(path)) as file:
        packets = file.demux(**{kind: 0})
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets if packet.size]


def patch_values(path: Path) -> np.ndarray:
    """Return luma and chroma amid each patch of the first frame, (3, 6)."""
    frame = frames_in(path)[0]
    assert frame.format.name.startswith("yuv")
    dtype = np.uint16 if "10" in frame.format.name else np.uint8
    values = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width]
        step = (plane.height // 2, plane.width // 3)
        values.append(rows[step[0] // 2 :: step[0], step[1] // 2 :: step[1]].ravel().astype(int))
    return np.array(values)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_sound_times_title_and_chapters_are_as_they_were(tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / f"clip{suffix}", tmp_path / f"out{suffix}"
    write_clip(
        source,
        patches(Coding(1, False)),
        codec="libx264",
        times=ODD_TIMES,
        sound="aac",
        extras=True,
    )
    result = run(source, output, segment_frames=5)
    assert (result.frames, result.size, result.output_size) == (12, Size(32, 48), Size(64, 96))
    assert times_in(output) == times_in(source)
    assert packets_in(output, "audio") == packets_in(source, "audio")
    with av.open(str(source)) as before, av.open(str(output)) as after:
        assert after.metadata["title"] == "A title"
        assert [one["metadata"] for one in after.chapters()] == [{"title": "one"}, {"title": "two"}]
        assert [one["start"] * one["time_base"] for one in after.chapters()] == [0, Fraction(3, 10)]
        assert (
            after.streams.audio[0].metadata["language"]
            == before.streams.audio[0].metadata["language"]
        )
        assert abs(after.duration - before.duration) <= 40_000
        attached = [stream.data for stream in after.streams if stream.type == "attachment"]
        assert attached == ([ATTACHMENT[2]] if suffix == ".mkv" else [])
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("matrix", "is_full"), [(1, False), (6, False), (9, False), (1, True), (5, True)]
)
@pytest.mark.parametrize("name", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le"])
def test_flat_patches_keep_their_colors_and_the_file_says_which(
    tmp_path: Path, matrix: int, is_full: bool, name: str
) -> None:
    sampling = {"0": (2, 2), "2": (2, 1), "4": (1, 1)}[name[5]]
    coding = Coding(matrix, is_full, 10 if "10" in name else 8, *sampling)
    source, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    write_clip(source, patches(coding, 2), pixel_format=name, matrix=matrix, is_full=is_full)
    result = run(source, output)
    assert result.codec == ("h264" if coding.bits == 8 else "hevc")
    assert np.abs(patch_values(output) - patch_values(source)).max() <= 2 ** (coding.bits - 8)
    frame = frames_in(output)[0]
    assert frame.format.name.replace("yuvj", "yuv") == name
    stated = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    assert stated == (matrix, 2 if is_full else 1, matrix, matrix)
    assert result.notes == ()


def test_a_lossless_copy_is_equal(tmp_path: Path) -> None:
    """Without a network, each luma value comes back as it was."""
    source, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32).repeat(4, axis=0)
    chroma = np.full((16, 16), 128, np.uint8)
    write_clip(source, [[ramp, chroma, chroma]], is_full=True)
    upscale_video(source, output, Upscaler(lambda x: x), scale=1, run="", form=VideoForm("ffv1"))
    assert np.array_equal(frames_in(output)[0].to_ndarray(), frames_in(source)[0].to_ndarray())


def test_a_matrix_that_is_not_stated_is_by_the_size_and_is_then_stated(tmp_path: Path) -> None:
    """Players take the larger output as BT.709, so that it must say what it is."""
    for size, matrix, name in (((480, 640), 6, "BT.601"), ((720, 1280), 1, "BT.709")):
        source, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
        write_clip(source, gray_frames([90], size), matrix=2, codec="libx264")
        result = run(source, output)
        assert result.notes == (f"no color matrix is stated; {name} by the size",)
        assert frames_in(output)[0].colorspace == matrix


def test_a_matrix_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", gray_frames([90]), matrix=8, codec="libx264")
    with pytest.raises(PlanError, match=r"number 8 of ITU-T H\.273"):
        run(tmp_path / "clip.mkv", tmp_path / "out.mkv")


def test_subtitles_are_copied_or_refused(tmp_path: Path) -> None:
    text, source = tmp_path / "text.srt", tmp_path / "clip.mkv"
    text.write_text("1\n00:00:00,100 --> 00:00:00,300\nHello\n")
    write_clip(tmp_path / "plain.mkv", gray_frames([40] * 9), codec="libx264")
    with (
        av.open(str(tmp_path / "plain.mkv")) as plain,
        av.open(str(text)) as subtitles,
        av.open(str(source), "w") as file,
    ):
        both = [
            (one, file.add_stream_from_template(one.streams[0], opaque=True))
            for one in (plain, subtitles)
        ]
        for one, stream in both:
            for packet in one.demux(one.streams[0]):
                if packet.size:
                    packet.stream = stream
                    file.mux(packet)
    run(source, tmp_path / "out.mkv")
    assert packets_in(tmp_path / "out.mkv", "subtitles") == [(Fraction(1, 10), b"Hello")]
    with pytest.raises(
        PlanError, match=r"subtitle in subrip, which \.mp4 files do not; write a \.mkv"
    ):
        run(source, tmp_path / "out.mp4")


def test_rotation_and_shape_of_pixels_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    write_clip(source, gray_frames([40] * 3), codec="libx264", rotation=90)
    run(source, tmp_path / "out.mp4")
    assert frames_in(tmp_path / "out.mp4")[0].rotation == frames_in(source)[0].rotation == 90


def test_results_are_reduced_to_fit(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", patches(Coding(1, False), 2))
    result = run(tmp_path / "clip.mkv", tmp_path / "out.mkv", fit=Size(32, 100))
    assert result.output_size == Size(32, 48)
    difference = patch_values(tmp_path / "out.mkv") - patch_values(tmp_path / "clip.mkv")
    assert np.abs(difference).max() <= 1


def test_odd_sizes_are_cut(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", gray_frames([90], (32, 48)))
    result = run(tmp_path / "clip.mkv", tmp_path / "out.mkv", fit=Size(31, 47))
    assert result.output_size == Size(30, 46)
    assert "cut to 30x46: shared chroma samples need even sizes" in result.notes


def test_gray_networks_make_gray_videos(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", patches(Coding(1, False), 2))
    gray = Upscaler(lambda frame: twice(frame).mean(axis=1, keepdims=True))
    run(tmp_path / "clip.mkv", tmp_path / "out.mkv", gray)
    assert np.abs(patch_values(tmp_path / "out.mkv")[1:] - 128).max() <= 1


class Adding:
    """Adds the frame before, at half, and counts what is computed."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.before: np.ndarray | None = None
        self.computed, self.resets, self.fail_at = 0, 0, fail_at

    def compute(self, frame: np.ndarray) -> np.ndarray:
        if self.computed == self.fail_at:
            raise KeyboardInterrupt
        self.computed += 1
        half = frame if self.before is None else (frame + self.before) / 2
        self.before = half
        return twice(half)

    def reset(self) -> None:
        self.before = None
        self.resets += 1

    def state(self) -> Remembered:
        return {} if self.before is None else {"before": self.before}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.before = state.get("before")

    def upscaler(self) -> Upscaler:
        return Upscaler(self.compute, self.reset, self.state, self.restore)


VALUES = [40 + 2 * number for number in range(9)] + [200 - number for number in range(9)]


def test_networks_forget_at_cuts(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mkv", gray_frames(VALUES))
    network = Adding()
    run(tmp_path / "clip.mkv", tmp_path / "out.mkv", network.upscaler(), codec="ffv1")
    assert (network.computed, network.resets) == (18, 2)
    luma = [int(frame.to_ndarray()[0, 0]) for frame in frames_in(tmp_path / "out.mkv")]
    assert (luma[0], luma[9]) == (40, 200)  # not blended with the scene before


def test_scenes_are_not_looked_for_without_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "clip.mkv", gray_frames(VALUES))
    monkeypatch.setattr(flow, "CutFinder", None)  # calling it is an error
    assert run(tmp_path / "clip.mkv", tmp_path / "out.mkv").frames == 18
    with pytest.raises(TypeError):
        run(tmp_path / "clip.mkv", tmp_path / "out.mkv", Adding().upscaler())


@pytest.mark.parametrize(("fail_at", "resumed"), [(3, 0), (6, 4), (9, 8), (17, 16)])
@pytest.mark.parametrize("codec", ["ffv1", "h264"])
def test_a_resumed_run_gives_the_frames_of_an_uninterrupted_one(
    tmp_path: Path, fail_at: int, resumed: int, codec: str
) -> None:
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES), times=[600 * n + n % 3 for n in range(18)], sound="aac")
    form: dict[str, Any] = {"codec": codec, "segment_frames": 4}
    run(source, tmp_path / "whole.mkv", Adding().upscaler(), **form)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.mkv", Adding(fail_at).upscaler(), **form)
    assert not (tmp_path / "out.mkv").exists()
    network = Adding()
    result = run(source, tmp_path / "out.mkv", network.upscaler(), **form)
    assert result.resumed == resumed
    assert network.computed == 18 - result.resumed
    assert packets_in(tmp_path / "out.mkv", "video") == packets_in(tmp_path / "whole.mkv", "video")
    assert times_in(tmp_path / "out.mkv") == times_in(source)
    assert not list(tmp_path.glob(".*"))


def test_another_run_is_not_resumed(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES))
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.mkv", Adding(9).upscaler(), segment_frames=2)
    result = run(source, tmp_path / "out.mkv", segment_frames=2, quality=90)
    assert result.resumed == 0
    assert result.notes == ("segments of an interrupted run were thrown away: it was another one",)


def test_another_network_is_not_resumed(tmp_path: Path) -> None:
    source, output = tmp_path / "clip.mkv", tmp_path / "out.mkv"
    write_clip(source, gray_frames(VALUES))
    form = VideoForm(segment_frames=2)
    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, output, Adding(9).upscaler(), scale=2, run="one", form=form)
    result = upscale_video(source, output, Adding().upscaler(), scale=2, run="two", form=form)
    assert result.resumed == 0


def test_a_broken_segment_is_computed_again(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES))
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.mkv", Upscaler(Adding(14).compute), segment_frames=4)
    segment = tmp_path / ".out.mkv.unfinished" / "000001.nut"
    segment.write_bytes(segment.read_bytes()[:-100])
    assert run(source, tmp_path / "out.mkv", segment_frames=4).resumed == 4
    assert len(frames_in(tmp_path / "out.mkv")) == 18


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES))

    def other(frame: np.ndarray) -> np.ndarray:
        with pytest.raises(PlanError, match="another run is writing"):
            run(source, tmp_path / "out.mkv")
        return twice(frame)

    run(source, tmp_path / "out.mkv", Upscaler(other))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot read"), (b"no video" * 99, "cannot read")]
)
def test_broken_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "clip.mkv"
    source.write_bytes(content)
    with pytest.raises(PlanError, match=message) as caught:
        run(source, tmp_path / "out.mkv")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mkv"]


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.int16), "s16", "stereo")
        frame.sample_rate = 48000
        file.mux(stream.encode(frame))
    with pytest.raises(PlanError, match="holds no video"):
        run(tmp_path / "sound.wav", tmp_path / "out.mkv")


@pytest.mark.parametrize(
    ("output", "form", "message"),
    [
        ("out.gif", {}, r"out\.gif is not written: videos are \.mkv"),
        ("clip.mkv", {}, "also the source"),
        ("out.mp4", {"codec": "hevc", "fit": Size(62, 90)}, "60x90 is too small for HEVC"),
        (
            "out.mp4",
            {"codec": "ffv1"},
            r"frames in \.mp4 files are coded as h264, hevc, not as ffv1",
        ),
    ],
)
def test_requests_that_contradict_themselves_are_refused(
    tmp_path: Path, output: str, form: dict[str, Any], message: str
) -> None:
    write_clip(tmp_path / "clip.mkv", gray_frames([9]))
    with pytest.raises(PlanError, match=message):
        run(tmp_path / "clip.mkv", tmp_path / output, **form)


def test_packets_that_cannot_be_decoded_are_left_out(tmp_path: Path) -> None:
    """A recording may begin amid a group of frames, or be damaged."""
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(range(40, 60, 2)), pixel_format="yuvj420p", codec="mjpeg")
    packets = packets_in(source, "video")
    data = source.read_bytes()
    for number in (0, 4):
        _, content = packets[number]
        assert data.count(content) == 1
        data = data.replace(content, bytes(len(content)))
    source.write_bytes(data)
    result = run(source, tmp_path / "out.mkv")
    assert (result.frames, result.notes[-1]) == (8, "2 packets cannot be decoded, and are left out")
    kept = [time for number, (time, _) in enumerate(packets) if number not in (0, 4)]
    assert times_in(tmp_path / "out.mkv") == kept


def test_an_interruption_at_the_end_costs_no_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames are encoded, the last segment is a short one, and the output is not written yet."""
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES))
    with monkeypatch.context() as patch:
        patch.setattr("paragon_export.media.videos.flow.join", Adding(0).compute)
        with pytest.raises(TypeError):
            run(source, tmp_path / "out.mkv", Adding().upscaler(), segment_frames=4)
    network = Adding()
    assert run(source, tmp_path / "out.mkv", network.upscaler(), segment_frames=4).resumed == 18
    assert network.computed == 0
    assert len(frames_in(tmp_path / "out.mkv")) == 18


@pytest.mark.parametrize(("lost", "resumed"), [("000002.json", 8), ("000002.npz", 0)])
def test_the_state_is_that_of_the_last_segment(tmp_path: Path, lost: str, resumed: int) -> None:
    """A process may end between the writing of a state and that of the times; then both states are there."""
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames(VALUES))
    form: dict[str, Any] = {"codec": "ffv1", "segment_frames": 4}
    run(source, tmp_path / "whole.mkv", Adding().upscaler(), **form)
    folder = tmp_path / ".out.mkv.unfinished"
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.mkv", Adding(9).upscaler(), **form)
    before = (folder / "000001.npz").read_bytes()
    with pytest.raises(KeyboardInterrupt):  # one more segment
        run(source, tmp_path / "out.mkv", Adding(5).upscaler(), **form)
    assert [path.name for path in sorted(folder.glob("*.npz"))] == ["000002.npz"]
    (folder / lost).unlink()
    if lost.endswith("json"):
        (folder / "000001.npz").write_bytes(before)
    result = run(source, tmp_path / "out.mkv", Adding().upscaler(), **form)
    assert result.resumed == resumed
    assert packets_in(tmp_path / "out.mkv", "video") == packets_in(tmp_path / "whole.mkv", "video")


def test_times_of_a_transport_stream_are_counted_from_its_start(tmp_path: Path) -> None:
    source, output = tmp_path / "clip.ts", tmp_path / "out.mkv"
    write_clip(source, gray_frames(range(40, 60)), codec="libx264", sound="aac")
    run(source, output)
    with av.open(str(source)) as file:
        start = Fraction(file.start_time, 10**6)
    assert start > 0.04
    for kind in ("video", "audio"):
        before = [time - start for time, _ in packets_in(source, kind)]
        after = [time for time, _ in packets_in(output, kind)]
        assert len(before) == len(after)
        assert max(abs(a - b) for a, b in zip(sorted(before), sorted(after), strict=True)) <= 0.0011


def test_cover_pictures_are_copied_and_not_taken_for_the_video(tmp_path: Path) -> None:
    plain, source, output = (tmp_path / name for name in ("plain.mp4", "clip.mp4", "out.mp4"))
    write_clip(plain, gray_frames([40] * 5), codec="libx264")
    with av.open(str(plain)) as video, av.open(str(source), "w") as file:
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 20, 10, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frames = file.add_stream_from_template(video.streams.video[0], opaque=True)
        picture = av.VideoFrame.from_ndarray(np.full((10, 20, 3), 90, np.uint8), "rgb24")
        file.mux([*cover.encode(picture), *cover.encode(None)])
        for packet in video.demux(video=0):
            if packet.size:
                packet.stream = frames
                file.mux(packet)
    result = run(source, output)
    assert (result.frames, result.size) == (5, Size(32, 48))
    with av.open(str(output)) as file:
        sizes = {(stream.width, stream.height) for stream in file.streams.video}
        assert sizes == {(20, 10), (96, 64)}


def test_a_cover_picture_that_comes_first_is_passed_over() -> None:
    cover, video = (
        SimpleNamespace(disposition=SimpleNamespace(name=name))
        for name in ("attached_pic", "default")
    )
    container: Any = SimpleNamespace(streams=SimpleNamespace(video=[cover, video]))
    assert main_stream(container, Path("clip.mp4")) is video


def test_no_two_frames_have_one_time(tmp_path: Path) -> None:
    """AVI and broken files may say so; encoders refuse it."""
    source = tmp_path / "clip.mkv"
    write_clip(source, gray_frames([40, 90, 140, 190]), times=[0, 512, 512, 1536])
    assert times_in(source) == [Fraction(ms, 1000) for ms in (0, 33, 33, 100)]
    run(source, tmp_path / "out.mkv")
    assert times_in(tmp_path / "out.mkv") == [Fraction(ms, 1000) for ms in (0, 33, 34, 100)]
