"""Streams beside the frames, names of files, and sizes that cannot be encoded."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from paragon_export.errors import PlanError
from paragon_export.media.videos.joining import _codecs_in
from paragon_export.media.videos.reading import facts_of, opened
from paragon_export.specs.types import Size
from paragon_export.testing.clips import write_clip
from tests.media.videos.test_flow import gray_frames, packets_in, run


def clip(path: Path, **how: Any) -> Path:
    write_clip(path, gray_frames([40, 60, 80]), codec="libx264", **how)
    return path


def joined(path: Path, sources: Sequence[Path]) -> Path:
    """Copy the streams of several files into one."""
    with av.open(str(path), "w") as file:
        files = [av.open(str(source)) for source in sources]
        pairs = [
            (one, [file.add_stream_from_template(stream, opaque=True) for stream in one.streams])
            for one in files
        ]
        for one, streams in pairs:
            for packet in one.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index]
                    file.mux(packet)
            one.close()
    return path


def test_subtitles_of_pictures_are_copied(tmp_path: Path) -> None:
    """FFmpeg calls the subtitles of Blu-ray discs by one name, and their decoder by another."""
    ends = [
        b"PG" + struct.pack(">IIBH", 9000 * k, 0, 0x80, 0) for k in range(3)
    ]  # "end of display"
    (tmp_path / "a.sup").write_bytes(b"".join(ends))
    source = joined(tmp_path / "a.mkv", [clip(tmp_path / "plain.mkv"), tmp_path / "a.sup"])
    run(source, tmp_path / "b.mkv")
    found = packets_in(tmp_path / "b.mkv", "subtitles")
    assert len(found) == 3
    assert found == packets_in(source, "subtitles")


def test_matroska_holds_what_discs_hold() -> None:
    assert {"dca", "pgssub", "dvdsub", "dvbsub", "truehd", "ac3"} <= _codecs_in(".mkv")


@pytest.mark.parametrize(("kind", "name"), [("PNG", "cover.png"), ("JPEG", "c %d.jpg")])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_cover_pictures_of_matroska(kind: str, name: str, suffix: str, tmp_path: Path) -> None:
    clip(tmp_path / "plain.mkv")
    Image.new("RGB", (20, 10), (200, 40, 90)).save(tmp_path / "cover", kind)
    picture = (tmp_path / "cover").read_bytes()
    source, output = tmp_path / "a.mkv", tmp_path / f"b{suffix}"
    with av.open(str(tmp_path / "plain.mkv")) as plain, av.open(str(source), "w") as file:
        stream = file.add_stream_from_template(plain.streams.video[0], opaque=True)
        file.add_attachment(name, f"image/{kind.lower()}", picture)
        for packet in plain.demux():
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    assert run(source, output).frames == 3
    with av.open(str(output)) as file:
        frames, cover = file.streams.video
        assert (frames.width, cover.width) == (96, 20)
        assert "attached_pic" in (cover.disposition.name or "")
        if suffix == ".mkv":
            assert cover.metadata["filename"] == name
            assert cover.metadata["mimetype"] == f"image/{kind.lower()}"
    with av.open(str(output)) as file:
        assert [bytes(p) for p in file.demux(video=1) if p.size] == [picture]


@pytest.mark.parametrize(
    ("sound", "suffix", "words"),
    [
        ("adpcm_ms", ".mkv", r"adpcm_ms, which \.mkv files do not; no format that is written does"),
        ("pcm_mulaw", ".mkv", r"pcm_mulaw, which \.mkv files do not; write a \.mov file"),
    ],
)
def test_advice_names_a_format_that_holds_the_sound(
    sound: str, suffix: str, words: str, tmp_path: Path
) -> None:
    source = clip(tmp_path / "a.avi", sound=sound)
    with pytest.raises(PlanError, match=words):
        run(source, tmp_path / f"b{suffix}")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["12:30.mkv", "concat:a.mkv", "we%03d.mkv", "-a.mkv", "a\nb.mkv"])
@pytest.mark.skipif(os.name == "nt", reason="Windows does not allow these names")
def test_names_are_no_protocols(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    clip(tmp_path / "in/a.mkv").rename(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    assert run(Path(name), Path("../out") / name).frames == 3
    monkeypatch.chdir(tmp_path / "out")
    assert run(Path("../in") / name, Path("b" + name)).frames == 3
    assert sorted(path.name for path in tmp_path.glob("out/*")) == sorted([name, "b" + name])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_empty_files_are_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mkv")
    (tmp_path / "empty.mkv").touch()
    for name, words in (("pipe.mkv", "no regular file"), ("empty.mkv", "it is empty")):
        with pytest.raises(PlanError, match=words), opened(tmp_path / name):
            pytest.fail("it is not opened")


def test_sizes_below_a_chroma_sample_are_refused(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv")
    with pytest.raises(PlanError, match="1x1 is too small"):
        run(source, tmp_path / "b.mkv", fit=Size(1, 1))
    assert run(source, tmp_path / "b.mkv", fit=Size(2, 3)).output_size == Size(2, 2)


def test_metadata_of_hdr_displays_are_noted(tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    for name, more in (("a.mkv", f":master-display={display}:max-cll=1000,400"), ("b.mkv", "")):
        write_clip(
            tmp_path / name, gray_frames([40, 60], (64, 64)), codec="libx265",
            options={"x265-params": f"log-level=none:repeat-headers=1{more}"},
        )  # fmt: skip
    wanted = "metadata of HDR displays are left out"
    assert wanted in facts_of(tmp_path / "a.mkv").notes
    assert wanted not in facts_of(tmp_path / "b.mkv").notes


def test_deep_frames_become_webm(tmp_path: Path) -> None:
    """With eight bits, and a note, where the encoder of VP9 was built for no more."""
    chroma = [np.full((16, 24), 512, np.uint16)] * 2
    frames = [[np.full((32, 48), value, np.uint16), *chroma] for value in (200, 600)]
    write_clip(tmp_path / "a.mkv", frames, pixel_format="yuv420p10le")
    result = run(tmp_path / "a.mkv", tmp_path / "b.webm", quality=95)
    encoder = av.Codec("libvpx-vp9", "w")
    is_deep = "yuv420p10le" in {one.name for one in encoder.video_formats or ()}
    with av.open(str(tmp_path / "b.webm")) as file:
        shown = [frame.to_ndarray() for frame in file.decode(video=0)]
    said = "10 bits were converted to 8: this encoder of vp9 takes no more"
    assert (said in result.notes) == (not is_deep)
    for luma, value in zip(shown, (200, 600), strict=True):
        assert abs(np.median(luma[:64]) - value / (1 if is_deep else 4)) <= 1
