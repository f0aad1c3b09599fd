"""Video: a model that carries features from frame to frame, and starts afresh at alpha 0."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from paragon_export.inputs.probes import photograph_crop
from paragon_export.networks.describe import read_network
from paragon_export.networks.paragonsr2.v9_v11.network import ParagonSR2, VideoParagonSR2
from paragon_export.parity.candidates import read_artifact
from paragon_export.parity.check import check_parity, judge
from paragon_export.parity.reference import build_reference
from paragon_export.pipeline.export import export
from paragon_export.runtimes.base import Runner
from paragon_export.runtimes.openvino_runner import OpenVinoRunner
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.sabotage.case import case_of
from paragon_export.testing.sabotage.suite import SUITE, written

pytestmark = pytest.mark.usefixtures("foreign_files_here")

CLOSE = 1e-5

FRAMES, CUT = 8, 4

BLEND = 0.2

VARIANTS = ("realtime", "photo")

OPTIONS = {
    "realtime": NetworkOptions(),
    "photo": NetworkOptions(flags={"window_size": 8}),  # a window of 16 has 16 times the scores
}


@dataclass(frozen=True)
class Video:
    """A video model and the networks that it stands for."""

    checkpoint: Path
    file: Path
    module: nn.Module
    still: nn.Module

    def session(self) -> ort.InferenceSession:
        return OnnxRunner(self.file).session


@pytest.fixture(scope="module")
def videos(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: dict[str, Path]
) -> dict[str, Video]:
    """Return exported video models by variant."""
    folder = tmp_path_factory.mktemp("video")
    made = {}
    for variant in VARIANTS:
        checkpoint, file = tiny_checkpoints[variant], folder / f"{variant}.onnx"
        options = OPTIONS[variant]
        result = export(ExportPlan(checkpoint=checkpoint, output=file, video=True, options=options))
        assert result.parity.passed
        described = read_network(checkpoint, options)
        modules = [build_reference(described, video=video).module for video in (True, False)]
        made[variant] = Video(checkpoint, file, *modules)
    return made


def clip(height: int, width: int) -> list[np.ndarray]:
    """Return a pan over the shipped photograph, another scene after the cut."""
    scene = photograph_crop(3, Size(2 * height, width + FRAMES))
    scenes = [scene[:, :height], 1 - scene[:, height:]]
    return [
        np.ascontiguousarray(scenes[index >= CUT][None, :, :, index : index + width])
        for index in range(FRAMES)
    ]


def alpha_of(index: int) -> float:
    return 0.0 if index in (0, CUT) else BLEND


def number(value: float) -> np.ndarray:
    """Return what feeds a scalar port."""
    return np.array(value, np.float32)


def zeros_like_features(frame: np.ndarray) -> np.ndarray:
    return np.zeros((frame.shape[0], 8, *frame.shape[2:]), np.float32)


def play_in_float64(module: nn.Module, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return PyTorch's pictures, frame after frame, its own features fed back."""
    wide = copy.deepcopy(module).double()
    features = torch.from_numpy(zeros_like_features(frames[0])).double()
    pictures = []
    for index, frame in enumerate(frames):
        with torch.inference_mode():
            alpha = torch.tensor(alpha_of(index), dtype=torch.float64)
            picture, features = wide(torch.from_numpy(frame).double(), features, alpha)
        pictures.append(picture.numpy())
    return pictures


def play_in_onnx(session: ort.InferenceSession, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return ONNX Runtime's pictures, frame after frame, its own features fed back."""
    features = zeros_like_features(frames[0])
    pictures = []
    for index, frame in enumerate(frames):
        feeds = {"input": frame, "prev_feat": features, "alpha": number(alpha_of(index))}
        picture, features = session.run(["output", "feature_map"], feeds)
        pictures.append(picture)
    return pictures


@pytest.mark.parametrize("variant", VARIANTS)
def test_ports(videos: dict[str, Video], variant: str) -> None:
    """A video model takes input, prev_feat and a scalar alpha, and gives output and feature_map."""
    graph = onnx.load(videos[variant].file).graph
    ports = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert ports == {
        "input": ["batch", 3, "height", "width"],
        "prev_feat": ["batch", 8, "height", "width"],
        "alpha": [],
        "output": ["batch", 3, "2*height", "2*width"],
        "feature_map": ["batch", 8, "height", "width"],
    }
    types = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert types == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("shape", [(21, 34), (1, 1), (33, 16)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_eight_frames_with_a_cut(
    videos: dict[str, Video], variant: str, shape: tuple[int, int]
) -> None:
    """Eight frames with a cut give PyTorch's float64 pictures, one after the other."""
    frames = clip(*shape)
    expected = play_in_float64(videos[variant].module, frames)
    found = play_in_onnx(videos[variant].session(), frames)
    errors = [np.abs(f - e).max() for f, e in zip(found, expected, strict=True)]
    assert len(errors) == FRAMES
    assert max(errors) <= CLOSE


@pytest.mark.parametrize("variant", VARIANTS)
def test_alpha_zero_starts_afresh(videos: dict[str, Video], variant: str) -> None:
    """A first frame with alpha 0 is the still picture, whatever features are fed."""
    video, frame = videos[variant], clip(19, 23)[0]
    with torch.inference_mode():
        still = copy.deepcopy(video.still).double()(torch.from_numpy(frame).double()).numpy()
    session = video.session()
    pictures = []
    for features in (zeros_like_features(frame), 100 * np.ones_like(zeros_like_features(frame))):
        feeds = {"input": frame, "prev_feat": features, "alpha": number(0)}
        pictures.append(session.run(["output"], feeds)[0])
    assert np.array_equal(*pictures)
    assert np.abs(pictures[0] - still).max() <= CLOSE


UNUSABLE = (np.nan, np.inf, -np.inf, 3e38, -3e38)


def unusable(features: np.ndarray) -> np.ndarray:
    """Return what memory that was never written may hold."""
    return np.resize(np.array(UNUSABLE, np.float32), features.shape)


@pytest.mark.parametrize("open_model", [OnnxRunner, OpenVinoRunner])
@pytest.mark.parametrize("variant", VARIANTS)
def test_alpha_zero_does_not_look_at_the_state(
    videos: dict[str, Video], variant: str, open_model: Callable[[Path], Runner]
) -> None:
    """NaN, infinities and any number in prev_feat are not seen; nothing of them stays."""
    runner, frame = open_model(videos[variant].file), clip(19, 23)[0]
    features = zeros_like_features(frame)
    given = {"input": frame, "alpha": number(0)}
    expected, found = (
        runner.infer({**given, "prev_feat": state}) for state in (features, unusable(features))
    )
    for name in ("output", "feature_map"):
        assert np.array_equal(found[name], expected[name])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_does_not_look_at_the_state_either(
    videos: dict[str, Video], variant: str, dtype: str
) -> None:
    """The reference is finite in every precision."""
    frame = clip(5, 7)[0]
    runner = TorchRunner(videos[variant].module, ["x", "before", "alpha"], ["y", "map"], dtype)
    features = zeros_like_features(frame)
    given = {"x": frame, "alpha": number(0)}
    expected, found = (
        runner.infer({**given, "before": state}) for state in (features, unusable(features))
    )
    for name in ("y", "map"):
        assert np.isfinite(expected[name]).all()
        assert np.array_equal(found[name], expected[name])


def test_the_blend_is_what_it_was(videos: dict[str, Video]) -> None:
    """Above alpha 0 the same products and the same sum, bit for bit."""
    video, frame = videos["realtime"], torch.from_numpy(clip(9, 13)[0])
    before = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 8, 9, 13))).float()
    with torch.inference_mode():
        own = video.still.conv_in(frame)
        for alpha in map(torch.tensor, (1e-9, BLEND, 1.0)):
            _, blended = video.module(frame, before, alpha)
            assert torch.equal(blended, (1 - alpha) * own + alpha * before)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_a_state_that_is_multiplied_fails(
    tiny_realtime: Path, precision: Precision, tmp_path: Path
) -> None:
    """The verdict sees it in every precision, on the probe that is made for it and on no other."""
    case = case_of(tiny_realtime, video=True, opset=22, upsampler_alpha=0.0)
    sabotage = next(s for s in SUITE if s.looks_like == "state multiplied")
    file = written(replace(sabotage, precision=precision), case, tmp_path / "wrong.onnx")
    report = judge(case.reference, [read_artifact(file)])
    assert not report.passed
    assert {row.picture for row in report.rows if row.failure} == {"broken state"}
    assert {finding.symptom for finding in report.findings} == {"state multiplied"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_video_network_at_alpha_zero_is_the_still_network(
    videos: dict[str, Video], variant: str
) -> None:
    """In PyTorch alpha 0 gives exactly what the network without prev_feat gives."""
    video, frame = videos[variant], torch.from_numpy(clip(9, 13)[0])
    assert isinstance(video.module, VideoParagonSR2)
    assert type(video.still) is ParagonSR2
    with torch.inference_mode():
        features = video.still.conv_in(frame)
        picture, blended = video.module(frame, torch.zeros_like(features), torch.tensor(0.0))
        assert torch.equal(picture, video.still(frame))
        assert torch.equal(blended, features)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blending_with_nothing_dims(videos: dict[str, Video], variant: str) -> None:
    """A first frame blended with zeros is another picture: alpha 0 is needed, and it works."""
    video, frame = videos[variant], clip(19, 23)[0]
    session, features = video.session(), zeros_like_features(frame)
    afresh, dimmed = (
        session.run(["output"], {"input": frame, "prev_feat": features, "alpha": alpha})[0]
        for alpha in (number(0), number(BLEND))
    )
    assert np.abs(afresh - dimmed).max() > 1e-3


def test_feature_map_is_the_blend(videos: dict[str, Video]) -> None:
    """The feature map is the blend that the next frame wants, not the bare features."""
    video, frame = videos["realtime"], clip(9, 13)[0]
    before = np.random.default_rng(1).standard_normal((1, 8, 9, 13)).astype(np.float32)
    with torch.inference_mode():
        own = video.still.conv_in(torch.from_numpy(frame)).numpy()
    feeds = {"input": frame, "prev_feat": before, "alpha": number(BLEND)}
    (found,) = video.session().run(["feature_map"], feeds)
    assert np.abs(found - (0.8 * own + 0.2 * before)).max() <= CLOSE


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        *((variant, Precision.FP16) for variant in VARIANTS),
        *((variant, Precision.BF16) for variant in VARIANTS if variant != "photo"),
        pytest.param("photo", Precision.BF16, marks=pytest.mark.slow),  # 3 s; FP16 shows it
    ],
)
def test_half_precision(
    videos: dict[str, Video], variant: str, precision: Precision, tmp_path: Path
) -> None:
    """A half video model passes its verdict on both outputs, drift over eight frames included."""
    file = tmp_path / "half.onnx"
    plan = ExportPlan(
        checkpoint=videos[variant].checkpoint,
        output=file,
        precision=precision,
        io=precision,
        video=True,
        options=OPTIONS[variant],
    )
    result = export(plan)
    assert result.parity.passed
    assert {row.output for row in result.parity.rows} == {"output", "feature_map"}
    onnx.checker.check_model(str(file), full_check=True)
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(metadata["video"]) is True
    assert metadata["precision"] == metadata["io"] == precision.value


def test_static_video(tiny_realtime: Path, tmp_path: Path) -> None:
    """A static video model is fixed in all its ports and plays the clip."""
    file = tmp_path / "static.onnx"
    plan = ExportPlan(checkpoint=tiny_realtime, output=file, video=True, static=Size(10, 14))
    assert export(plan).parity.passed
    module = build_reference(read_network(tiny_realtime, NetworkOptions()), video=True).module
    frames = clip(10, 14)
    found = play_in_onnx(OnnxRunner(file).session, frames)
    for picture, expected in zip(found, play_in_float64(module, frames), strict=True):
        assert np.abs(picture - expected).max() <= CLOSE


def test_stills_and_videos_are_judged_apart(videos: dict[str, Video], tmp_path: Path) -> None:
    """A video model is judged as one; together with a still model it is refused."""
    from paragon_export.errors import PlanError

    video = videos["realtime"]
    report = check_parity(video.checkpoint, [video.file], sizes=[Size(9, 13)])
    assert report.passed
    still = tmp_path / "still.onnx"
    export(ExportPlan(checkpoint=video.checkpoint, output=still))
    with pytest.raises(PlanError, match="separate runs"):
        check_parity(video.checkpoint, [video.file, still])
