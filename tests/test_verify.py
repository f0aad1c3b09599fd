"""The judge: a good model passes, and one that was broken on purpose fails for the right reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from paragon_export.candidates import open_candidate
from paragon_export.checkpoint import Checkpoint
from paragon_export.errors import RunError
from paragon_export.judge import judge
from paragon_export.metrics import Difference
from paragon_export.pipeline import export
from paragon_export.plan import ExportPlan, Precision, Size, Switches, Tolerance
from paragon_export.precision import to_precision
from paragon_export.probes import Probe, default_sizes, still_probes, video_probe
from paragon_export.reference import TorchReference, build_reference, describe
from paragon_export.report import ParityReport, ParityRow
from paragon_export.runners import Arrays, OnnxRunner, Runner
from paragon_export.trace import trace
from paragon_export.variant import Variant
from paragon_export.verify import Candidate, play, verify
from tests.tiny import save, tiny_hyperparameters, tiny_tensors

SIZES = [(Size(1, 1), 1), (Size(17, 33), 1), (Size(35, 21), 2)]
"""Smaller than the window, one above it, and several windows in a batch of two."""

PRECISIONS = list(Precision)


@dataclass(frozen=True)
class Case:
    """A network, and the good graph that is broken in the tests."""

    checkpoint: Checkpoint
    variant: Variant
    reference: TorchReference
    model: ir.Model


def case_of(path: Path, *, video: bool = False, **flags: object) -> Case:
    checkpoint, variant = describe(path, Switches(flags=flags))
    reference = build_reference(checkpoint, variant, video=video)
    model = trace(reference.module, reference.inputs, reference.outputs, 22)
    return Case(checkpoint, variant, reference, model)


@pytest.fixture(scope="module")
def realtime(tiny_realtime: Path) -> Case:
    return case_of(tiny_realtime, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def photo(tiny_photo: Path) -> Case:
    return case_of(tiny_photo, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def video(tiny_realtime: Path) -> Case:
    return case_of(tiny_realtime, video=True, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return still_probes(3, SIZES)


@pytest.fixture
def verdict(tmp_path: Path, probes: list[Probe]) -> Callable[..., ParityReport]:
    """Return a function that judges a graph as a file, as the commands do."""

    def run(case: Case, model: ir.Model, precision: Precision = Precision.FP32) -> ParityReport:
        file = write(to_precision(model, precision, Precision.FP32), tmp_path / "candidate.onnx")
        is_video = len(case.reference.inputs) > 1
        candidate = open_candidate(file, video=is_video).candidate
        assert candidate.precision is precision
        fed = [video_probe(3, Size(9, 12), frames=4)] if is_video else probes
        return verify(case.reference, [candidate], fed)

    return run


def write(model: ir.Model, path: Path) -> Path:
    path.write_bytes(ir.to_proto(model).SerializeToString())
    return path


def failures(report: ParityReport) -> set[str]:
    return {row.failure for row in report.rows if row.failure}


# --- good ones -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["realtime", "photo", "video"])
def test_good_model_passes(
    name: str,
    precision: Precision,
    request: pytest.FixtureRequest,
    verdict: Callable[..., ParityReport],
) -> None:
    """The untouched graph passes in every precision."""
    case: Case = request.getfixturevalue(name)
    report = verdict(case, case.model, precision)
    assert failures(report) == set()
    assert report.passed
    assert {row.output for row in report.rows} == {port.name for port in case.reference.outputs}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_good_model_passes_at_the_default_sizes(
    realtime: Case, precision: Precision, tmp_path: Path
) -> None:
    """The untouched graph passes on the probes that the commands use by default."""
    file = write(to_precision(realtime.model, precision, precision), tmp_path / "good.onnx")
    report = judge(realtime.reference, realtime.variant, [file])
    assert report.passed
    assert {row.size for row in report.rows} == {size for size, _ in default_sizes(1)}
    assert any(row.batch == 2 for row in report.rows)


# --- broken graphs -------------------------------------------------------------------------

Break = Callable[[Case], ir.Model]


def copied(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


def with_weight(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> ir.Model:
    """Return a copy in which one weight is another."""
    model = copied(model)
    value = model.graph.initializers[name]
    assert value.const_value is not None
    before = value.const_value.numpy()
    after = np.asarray(change(before.copy()), before.dtype)
    assert not np.array_equal(before, after)
    value.const_value = ir.tensor(after, name=name)
    return model


def off_by_a_thousandth(name: str) -> Break:
    def nudge(array: np.ndarray) -> np.ndarray:
        largest = np.unravel_index(np.abs(array).argmax(), array.shape)
        array[largest] *= 1.001
        return array

    return lambda case: with_weight(case.model, name, nudge)


def swap_channels(case: Case) -> ir.Model:
    return with_weight(case.model, "conv_mid.weight", lambda w: w[[1, 0, *range(2, len(w))]])


def swap_colours(case: Case) -> ir.Model:
    return with_weight(case.model, "conv_out.weight", lambda w: w[::-1])


def gamma_of_a_block_zeroed(case: Case) -> ir.Model:
    return with_weight(case.model, "body.0.blocks.1.scale.gamma", np.zeros_like)


def no_detail(case: Case) -> ir.Model:
    return with_weight(case.model, "detail_gain", np.zeros_like)


def tanh_gelu(case: Case) -> ir.Model:
    model = copied(case.model)
    gelus = [node for node in model.graph if node.op_type == "Gelu"]
    assert gelus
    for node in gelus:
        node.attributes["approximate"] = ir.AttrString("approximate", "tanh")
    return model


def clamped(case: Case) -> ir.Model:
    model = copied(case.model)
    (result,) = model.graph.outputs
    result.name = "free"
    bounds = []
    for name, bound in (("low", 0.0), ("high", 1.0)):
        tensor = ir.tensor(np.array(bound, np.float32), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=result.type, const_value=tensor)
        model.graph.register_initializer(value)
        bounds.append(value)
    clip = ir.node("Clip", [result, *bounds], name="clip")
    clip.outputs[0].name, clip.outputs[0].type, clip.outputs[0].shape = (
        "output",
        result.type,
        result.shape,
    )
    model.graph.append(clip)
    model.graph.outputs[0] = clip.outputs[0]
    return model


def wrong_alpha(case: Case) -> ir.Model:
    return case_of(case.checkpoint.path, upsampler_alpha=0.35).model


def transposed_padding(case: Case) -> ir.Model:
    """Zero padding replaced by repeated edges: only the border changes."""
    model = copied(case.model)
    conv = next(node for node in model.graph if node.name.startswith("conv_out/"))
    conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    (features,) = conv.inputs[:1]
    assert features is not None
    pads = ir.tensor(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), name="edge")
    value = ir.Value(
        name="edge", shape=pads.shape, type=ir.TensorType(pads.dtype), const_value=pads
    )
    model.graph.register_initializer(value)
    pad = ir.node("Pad", [features, value], {"mode": "edge"}, name="pad")
    pad.outputs[0].name = "padded"
    conv.prepend(pad)
    conv.replace_input_with(0, pad.outputs[0])
    return model


def rolled_back_the_wrong_way(case: Case) -> ir.Model:
    """The second roll of the window attention goes the same way as the first."""
    model = copied(case.model)
    there, back = (model.graph.initializers[name] for name in ("ints_8", "ints_-8"))
    uses = list(back.uses())
    assert uses
    for user, index in uses:
        user.replace_input_with(index, there)
    return model


def not_rolled(case: Case) -> ir.Model:
    """The windows of odd blocks lie where those of even blocks do."""
    model = copied(case.model)
    for name in ("ints_8", "ints_-8"):
        for user, index in list(model.graph.initializers[name].uses()):
            if user.op_type == "Slice":
                user.replace_input_with(index, model.graph.initializers["ints_0"])
    return model


def baked_size(case: Case) -> ir.Model:
    """A graph traced at 32x32 that claims to take any size."""
    ports = case.reference.fixed(Size(32, 32), case.variant.scale)
    model = trace(case.reference.module, *ports, 22)
    for value, port in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*case.reference.inputs, *case.reference.outputs),
        strict=True,
    ):
        value.shape = ir.Shape(port.dims)
    return model


REALTIME_BREAKS: dict[str, Break] = {
    "filter of the base off by 0.1 %": off_by_a_thousandth("base.blur.h.weight"),
    "first convolution off by 0.1 %": off_by_a_thousandth("conv_in.weight"),
    "depthwise weight off by 0.1 %": off_by_a_thousandth("body.0.blocks.1.dw.weight"),
    "gamma off by 0.1 %": off_by_a_thousandth("body.0.blocks.0.scale.gamma"),
    "last bias off by 0.1 %": off_by_a_thousandth("conv_out.bias"),
    "detail gain off by 0.1 %": off_by_a_thousandth("detail_gain"),
    "two output channels swapped": swap_channels,
    "colours in the other order": swap_colours,
    "gamma of a block zeroed": gamma_of_a_block_zeroed,
    "no detail": no_detail,
    "GELU by tanh": tanh_gelu,
    "output clamped": clamped,
    "another upsampler_alpha": wrong_alpha,
    "edges repeated": transposed_padding,
}


@pytest.mark.parametrize("break_it", REALTIME_BREAKS.values(), ids=REALTIME_BREAKS.keys())
def test_broken_graph_fails(
    break_it: Break, realtime: Case, verdict: Callable[..., ParityReport]
) -> None:
    """A float32 graph with one thing wrong fails."""
    report = verdict(realtime, break_it(realtime))
    assert not report.passed
    assert failures(report) <= {"error", "error at the border"}


GROSS = {
    name: REALTIME_BREAKS[name]
    for name in (
        "two output channels swapped",
        "colours in the other order",
        "gamma of a block zeroed",
        "no detail",
        "output clamped",
        "another upsampler_alpha",
        "edges repeated",
    )
}


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("break_it", GROSS.values(), ids=GROSS.keys())
def test_broken_half_graph_fails(
    break_it: Break, precision: Precision, realtime: Case, verdict: Callable[..., ParityReport]
) -> None:
    """The tolerance for half precision hides rounding, and no mistake."""
    report = verdict(realtime, break_it(realtime), precision)
    assert not report.passed
    assert failures(report) <= {"error", "error at the border"}


def another_window(case: Case) -> ir.Model:
    return case_of(case.checkpoint.path, upsampler_alpha=0.3, window_size=8).model


PHOTO_BREAKS: dict[str, Break] = {
    "another window_size": another_window,
    "qkv off by 0.1 %": off_by_a_thousandth("body.0.blocks.0.attn.qkv.weight.T"),
    "norm off by 0.1 %": off_by_a_thousandth("body.0.blocks.1.attn_norm.scale"),
    "rolled back the wrong way": rolled_back_the_wrong_way,
    "not rolled": not_rolled,
    "GELU by tanh": tanh_gelu,
}


@pytest.mark.parametrize("break_it", PHOTO_BREAKS.values(), ids=PHOTO_BREAKS.keys())
def test_broken_attention_fails(
    break_it: Break, photo: Case, verdict: Callable[..., ParityReport]
) -> None:
    """A float32 graph with one thing wrong around its attention fails."""
    report = verdict(photo, break_it(photo))
    assert not report.passed
    assert failures(report) <= {"error", "error at the border"}


def test_changed_border_is_named(realtime: Case, verdict: Callable[..., ParityReport]) -> None:
    """A graph that is wrong at its border alone fails by that name; the interior is reported."""
    report = verdict(realtime, transposed_padding(realtime))
    assert failures(report) == {"error at the border"}
    for row in report.rows:
        assert row.found.interior_max_abs <= row.limit < row.found.border_max_abs


def test_baked_size_cannot_run(photo: Case, tmp_path: Path) -> None:
    """A graph that was baked at the traced size passes there and cannot run elsewhere."""
    file = write(baked_size(photo), tmp_path / "baked.onnx")
    assert judge(photo.reference, photo.variant, [file], [Size(32, 32)]).passed
    report = judge(photo.reference, photo.variant, [file], [Size(32, 32), Size(17, 33)])
    assert not report.passed
    for row in report.rows:
        assert row.failure.startswith("cannot run") == (row.size != Size(32, 32))


def test_graph_without_its_crop(photo: Case, tmp_path: Path) -> None:
    """A graph that is right at every multiple of the window and lacks the crop fails elsewhere."""
    model = copied(photo.model)
    crops = [node for node in model.graph if node.op_type == "Slice" and _is_crop(node)]
    assert len(crops) == 2
    for crop in crops:
        (padded, *_), (cropped,) = crop.inputs, crop.outputs
        assert padded is not None
        for user, index in list(cropped.uses()):
            user.replace_input_with(index, padded)
        model.graph.remove(crop)
    file = write(model, tmp_path / "uncropped.onnx")
    right = judge(photo.reference, photo.variant, [file], [Size(16, 32), Size(32, 32)])
    assert right.passed
    assert not judge(photo.reference, photo.variant, [file], [Size(17, 33)]).passed


def _is_crop(node: ir.Node) -> bool:
    """Tell the slices back to the picture's size from those of a roll: their ends are computed."""
    ends = node.inputs[2]
    return ends is not None and ends.const_value is None


# --- overflow ------------------------------------------------------------------------------

LARGE = 2.0**15


def overflowing(case: Case) -> ir.Model:
    """Return the graph with features taken out of half's range and back: exact in float32."""
    model = copied(case.model)
    conv = next(node for node in model.graph if node.name.startswith("conv_mid/"))
    features = conv.outputs[0]
    uses = list(features.uses())
    at: ir.Node = conv
    value = features
    for name, factor in (("up", LARGE), ("down", 1 / LARGE)):
        tensor = ir.tensor(np.array(factor, np.float32), name=name)
        weight = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        model.graph.register_initializer(weight)
        node = ir.node("Mul", [value, weight], name=f"times_{name}")
        node.outputs[0].name = f"{name}_result"
        at.append(node)
        at, value = node, node.outputs[0]
    for user, index in uses:
        user.replace_input_with(index, value)
    return model


def test_overflow_in_half_is_named(realtime: Case, verdict: Callable[..., ParityReport]) -> None:
    """A graph whose middle leaves half's range passes in float32 and bfloat16, not in float16."""
    model = overflowing(realtime)
    assert verdict(realtime, model).passed
    assert verdict(realtime, model, Precision.BF16).passed
    report = verdict(realtime, model, Precision.FP16)
    assert not report.passed
    assert "non-finite" in failures(report)


def test_network_that_overflows_in_half_itself(
    tmp_path: Path, verdict: Callable[..., ParityReport]
) -> None:
    """A network that PyTorch cannot run in float16 either is no excuse for what is not finite."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["conv_in.weight"] *= LARGE
    tensors["conv_mid.weight"] /= LARGE
    case = case_of(save(tensors, tmp_path / "loud.safetensors"))
    report = verdict(case, case.model, Precision.FP16)
    assert not report.passed
    assert "non-finite" in failures(report)
    overflowed = [row for row in report.rows if row.failure == "non-finite"]
    assert all(math.isinf(row.reference_max_abs) for row in overflowed)


# --- broken outputs ------------------------------------------------------------------------


@dataclass
class Altered:
    """A good runner whose results are changed on their way out."""

    runner: Runner
    change: Callable[[Arrays, Mapping[str, np.ndarray]], Arrays]
    name: str = "altered"

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        return self.change(self.runner.infer(feeds), feeds)


def on_output(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Arrays]:
    return lambda results, feeds: {**results, "output": change(results["output"])}


def ring_changed(picture: np.ndarray) -> np.ndarray:
    changed = picture + 0.05
    changed[..., 1:-1, 1:-1] = picture[..., 1:-1, 1:-1]
    return changed


def with_pixel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(picture: np.ndarray) -> np.ndarray:
        picture = picture.copy()
        picture[-1, 1, picture.shape[2] // 2, -1] = value
        return picture

    return change


def one_picture_off(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[-1] += 0.05
    return picture


def fails(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    if feeds["input"].shape[2] == 17:
        raise RunError("out of memory")
    return results


OUTPUT_BREAKS: dict[str, tuple[Callable[..., Arrays], str]] = {
    "shift by one pixel": (on_output(lambda p: np.roll(p, 1, axis=3)), "error"),
    "turned upside down": (on_output(lambda p: p[:, :, ::-1]), "error"),
    "blue before red": (on_output(lambda p: p[:, ::-1]), "error"),
    "ring of one pixel": (on_output(ring_changed), "error at the border"),
    "one pixel off": (on_output(with_pixel(2.0)), "error at the border"),
    "NaN in one pixel": (on_output(with_pixel(math.nan)), "non-finite"),
    "infinity in one pixel": (on_output(with_pixel(-math.inf)), "non-finite"),
    "all zero": (on_output(np.zeros_like), "constant"),
    "all grey": (on_output(lambda p: np.full_like(p, 0.5)), "constant"),
    "batch items swapped": (on_output(lambda p: p[::-1]), "error"),
    "last of the batch off": (on_output(one_picture_off), "error"),
    "first of the batch repeated": (on_output(lambda p: p[:1].repeat(len(p), 0)), "error"),
    "wrong scale": (on_output(lambda p: p.repeat(2, 2).repeat(2, 3)), "wrong shape"),
    "one row lost": (on_output(lambda p: p[:, :, 1:]), "wrong shape"),
    "batch lost": (on_output(lambda p: p[:0]), "wrong shape"),
    "channels last": (on_output(lambda p: p.transpose(0, 2, 3, 1)), "wrong shape"),
    "output missing": (lambda results, feeds: {"other": results["output"]}, "output missing"),
    "fails at one size": (fails, "cannot run: out of memory"),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("change", "failure"), OUTPUT_BREAKS.values(), ids=OUTPUT_BREAKS.keys())
def test_broken_output_fails_by_name(
    change: Callable[..., Arrays],
    failure: str,
    precision: Precision,
    realtime: Case,
    good_runners: dict[Precision, Runner],
    probes: list[Probe],
) -> None:
    """An output that is wrong in one way fails in every precision, and the verdict names how."""
    runner = Altered(good_runners[precision], change)
    candidate = Candidate(name="altered", runner=runner, precision=precision)
    report = verify(realtime.reference, [candidate], probes[1:])
    assert not report.passed
    found = failures(report)
    assert any(f == failure or f.startswith(failure + " [") for f in found), found


@pytest.fixture(scope="module")
def good_runners(
    realtime: Case, tmp_path_factory: pytest.TempPathFactory
) -> dict[Precision, Runner]:
    folder = tmp_path_factory.mktemp("good")
    runners = {}
    for precision in PRECISIONS:
        model = to_precision(realtime.model, precision, Precision.FP32)
        file = write(model, folder / f"{precision.value}.onnx")
        runners[precision] = open_candidate(file, video=False).candidate.runner
    return runners


def test_failures_do_not_spread(
    realtime: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """Of several candidates each has its own rows, and one that fails fails the report."""
    good = Candidate(name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32)
    runner = Altered(good.runner, on_output(with_pixel(math.nan)))
    bad = Candidate(name="bad", runner=runner, precision=Precision.FP32)
    report = verify(realtime.reference, [good, bad], probes[:2])
    assert not report.passed
    assert [row.candidate for row in report.rows] == ["good", "bad", "good", "bad"]
    assert {row.candidate for row in report.rows if row.failure} == {"bad"}


def test_nothing_compared_is_no_pass(
    realtime: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """Without candidates, or without probes, there is no verdict to pass."""
    good = Candidate(name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32)
    assert not verify(realtime.reference, [], probes[:1]).passed
    assert not verify(realtime.reference, [good], []).passed
    assert not judge(realtime.reference, realtime.variant, []).passed


def test_notes_advise_flags_that_exist(tmp_path: Path) -> None:
    """A file of another checkpoint fails, and no note sends the user to a flag that is not there."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    made_from = save(tensors, tmp_path / "a.safetensors")
    tensors["detail_gain"] = np.array(0.35, np.float32)
    other = case_of(save(tensors, tmp_path / "b.safetensors"), upsampler_alpha=0.1)
    file = tmp_path / "a.onnx"
    assert export(ExportPlan(checkpoint=made_from, output=file)).parity.passed
    report = judge(other.reference, other.variant, [file], [Size(9, 12)])
    assert not report.passed
    advised = {flag for note in report.notes for flag in re.findall(r"--[a-z-]+", note)}
    assert "--upsampler-alpha" in advised
    assert advised <= {
        "--upsampler-alpha",
        "--window-size",
        "--attention-mode",
        "--export-safe",
        "--no-export-safe",
        "--config",
    }


# --- video ---------------------------------------------------------------------------------


def forgetful(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return {**results, "feature_map": np.zeros_like(results["feature_map"])}


def without_map(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return {"output": results["output"]}


@pytest.mark.parametrize("change", [forgetful, without_map])
def test_lost_features_fail(change: Callable[..., Arrays], video: Case, tmp_path: Path) -> None:
    """A video model that loses the features of the frame before fails."""
    good = open_candidate(write(video.model, tmp_path / "video.onnx"), video=True).candidate
    bad = Candidate(name="bad", runner=Altered(good.runner, change), precision=Precision.FP32)
    clip = [video_probe(3, Size(9, 12), frames=4)]
    assert verify(video.reference, [good], clip).passed
    report = verify(video.reference, [bad], clip)
    assert not report.passed
    assert failures(report) & {"error", "constant", "output missing"}


def test_dimmed_first_frame_fails(video: Case, tmp_path: Path) -> None:
    """A video model that blends a first frame or a cut with nothing fails."""
    good = open_candidate(write(video.model, tmp_path / "video.onnx"), video=True).candidate

    @dataclass
    class Dimming:
        runner: Runner
        name: str = "dimming"

        def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
            if feeds["alpha"] > 0:
                return self.runner.infer(feeds)
            empty = np.zeros_like(feeds["prev_feat"])
            return self.runner.infer(
                {**feeds, "prev_feat": empty, "alpha": np.array(0.2, np.float32)}
            )

    bad = Candidate(name="bad", runner=Dimming(good.runner), precision=Precision.FP32)
    report = verify(video.reference, [bad], [video_probe(3, Size(9, 12), frames=4)])
    assert not report.passed
    assert failures(report) == {"error"}


def test_play_feeds_a_runner_its_own_state(video: Case) -> None:
    """Frame by frame a runner gets its last feature map, zeros at first, and the probe's blend."""
    seen: list[Mapping[str, np.ndarray]] = []
    runner = video.reference.runner("float32")

    def watch(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
        seen.append(dict(feeds))
        return results

    probe = video_probe(3, Size(5, 7), frames=4)
    played = play(Altered(runner, watch), probe, video.reference.inputs)
    assert played["output"].shape == (4, 3, 10, 14)
    assert [float(feeds["alpha"]) for feeds in seen] == pytest.approx([0, 0.2, 0, 0.2])
    assert not seen[0]["prev_feat"].any()
    for before, feeds in zip(played["feature_map"], seen[1:], strict=False):
        assert np.array_equal(feeds["prev_feat"][0], before)


# --- pictures on which the network itself diverges ------------------------------------------


def test_divergence_is_told_and_not_judged(
    realtime: Case, good_runners: dict[Precision, Runner], tmp_path: Path
) -> None:
    """Where the float64 network blows up on a stress picture, the row is told apart in a note."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["detail_gain"] = np.array(1e3, np.float32)
    case = case_of(save(tensors, tmp_path / "loud.safetensors"))
    candidate = Candidate(
        name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32
    )
    probes = still_probes(3, [(Size(17, 33), 1)])
    photograph, stress = verify(case.reference, [candidate], probes).rows
    assert (photograph.is_judged, stress.is_judged) == (True, False)
    assert photograph.failure == "error"
    assert "diverges" in verify(case.reference, [candidate], probes).notes[0]
    only_stress = verify(case.reference, [candidate], probes[1:])
    assert not only_stress.passed


def test_what_cannot_be_compared_fails_even_there() -> None:
    """A wrong shape or a run that fails is no rounding: it fails on any picture."""
    row = row_with(Precision.FP32, 1e-7)
    diverged = replace(row, is_stress=True, reference_peak=5.0)
    assert diverged.failure == ""
    assert replace(diverged, fault="output missing").failure == "output missing"


# --- tolerances ----------------------------------------------------------------------------


def row_with(
    precision: Precision, reference_max_abs: float, max_abs: float = 0.0, psnr_db: float = 99.0
) -> ParityRow:
    return ParityRow(
        candidate="c",
        precision=precision,
        output="output",
        picture="synthetic",
        size=Size(9, 9),
        batch=1,
        found=Difference(max_abs, psnr_db, max_abs, max_abs, True, False),
        reference_max_abs=reference_max_abs,
        tolerance=Tolerance.for_precision(precision),
    )


@pytest.mark.parametrize(
    ("reference", "limit"),
    [(0.0, 1e-6), (1e-7, 1e-6), (2.5e-7, 1e-6), (1e-6, 4e-6), (2.5e-6, 1e-5), (1e-4, 1e-5)],
)
def test_float32_limit(reference: float, limit: float) -> None:
    """A float32 candidate may err 4 times what PyTorch errs, or 1e-6, and never over 1e-5."""
    row = row_with(Precision.FP32, reference)
    assert row.limit == pytest.approx(limit, rel=1e-12)
    assert row.limit == pytest.approx(min(1e-5, max(4 * reference, 1e-6)), rel=1e-12)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("reference", [0.0, 1e-5, 1e-3, 0.5])
def test_half_limit(precision: Precision, reference: float) -> None:
    """A half candidate may err 1.5 times what PyTorch errs in the same precision."""
    assert row_with(precision, reference).limit == pytest.approx(1.5 * reference, rel=1e-12)


@pytest.mark.parametrize(
    ("precision", "bar"),
    [(Precision.FP32, -math.inf), (Precision.FP16, 50.0), (Precision.BF16, 30.0)],
)
def test_decibel_bar(precision: Precision, bar: float) -> None:
    """No picture may fall below 50 dB in float16 and 30 dB in bfloat16."""
    assert Tolerance.for_precision(precision).min_psnr_db == bar
    if math.isfinite(bar):
        assert row_with(precision, 1.0, 0.1, bar).failure == ""
        assert row_with(precision, 1.0, 0.1, bar - 1e-6).failure == "PSNR"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_limit_is_inclusive(precision: Precision) -> None:
    """An error of exactly the limit passes, the next larger number fails."""
    limit = row_with(precision, 1e-6).limit
    assert row_with(precision, 1e-6, limit).failure == ""
    assert row_with(precision, 1e-6, math.nextafter(limit, 1)).failure == "error"
    assert row_with(precision, 1e-6, math.nan).failure != ""


def test_given_tolerances_replace_the_defaults(
    realtime: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """A caller may be stricter than the defaults."""
    impossible = Tolerance(max_abs=0, times_reference=0, reference_floor=0, min_psnr_db=0)
    candidate = Candidate(
        name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32
    )
    report = verify(realtime.reference, [candidate], probes[1:2], {Precision.FP32: impossible})
    assert not report.passed


def test_reference_error_is_of_the_same_precision(
    realtime: Case, good_runners: dict[Precision, Runner], probes: Sequence[Probe]
) -> None:
    """Beside a candidate stands what PyTorch errs in the candidate's own precision."""
    candidates = [Candidate(name=p.value, runner=good_runners[p], precision=p) for p in PRECISIONS]
    report = verify(realtime.reference, candidates, probes[1:2])
    by_name = {row.candidate: row.reference_max_abs for row in report.rows}
    assert by_name["fp32"] < 1e-5 < 10 * by_name["fp16"] < 10 * by_name["bf16"]
    assert isinstance(good_runners[Precision.FP32], OnnxRunner)
