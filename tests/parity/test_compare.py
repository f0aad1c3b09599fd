"""The judge: a good model passes, and one that was broken on purpose fails for the right reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from paragon_export.errors import RunError
from paragon_export.graph.trace import trace
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe, still_probes, video_probe
from paragon_export.inputs.sizes import default_sizes, drawn_size
from paragon_export.parity import candidates
from paragon_export.parity.acceptance import default_criteria, image_criteria
from paragon_export.parity.candidates import Candidate, open_candidate, read_artifact
from paragon_export.parity.check import judge
from paragon_export.parity.compare import verify
from paragon_export.parity.metrics import Difference, Ratios
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.pipeline.export import export
from paragon_export.precision.half import to_precision
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.isolated import IsolatedRunner
from paragon_export.specs.plans import ExportPlan, ParityPlan
from paragon_export.specs.tolerance import Tolerance
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.sabotage.case import Break, Case, case_of
from paragon_export.testing.sabotage.edits import (
    LARGE,
    edges_repeated,
    not_rolled,
    off_by_a_thousandth,
    overflowing,
    rolled_back_the_wrong_way,
    swap_channels,
    tanh_gelu,
    weight,
    without_crop,
)
from paragon_export.testing.sabotage.networks import another, baked_size
from paragon_export.testing.sabotage.pieces import behind, real
from paragon_export.testing.tiny import save, tiny_hyperparameters, tiny_tensors

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SIZES = [(Size(1, 1), 1), (Size(17, 33), 1), (Size(35, 21), 2)]
"""Smaller than the window, one above it, and several windows in a batch of two."""

PRECISIONS = list(Precision)

ERRORS = {"error", "error at the border", "RMS error", "error of 1 %", "mean error over all"}
"""Failures of an output that could be compared and is finite."""


@pytest.fixture(scope="module")
def photo(tiny_photo: Path) -> Case:
    return case_of(tiny_photo, opset=22, upsampler_alpha=0.3)


@pytest.fixture(scope="module")
def probes() -> list[Probe]:
    return still_probes(3, SIZES)


@pytest.fixture
def verdict(tmp_path: Path, probes: list[Probe]) -> Callable[..., ParityReport]:
    """Return a function that judges a graph as a file, as the commands do."""

    def run(case: Case, model: ir.Model, precision: Precision = Precision.FP32) -> ParityReport:
        file = write(to_precision(model, precision, Precision.FP32), tmp_path / "candidate.onnx")
        is_video = len(case.reference.inputs) > 1
        candidate = open_candidate(
            read_artifact(file), case.reference.inputs, case.reference.outputs
        ).candidate
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
@pytest.mark.parametrize("name", ["still", "photo", "video"])
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


@pytest.mark.all_sizes
@pytest.mark.parametrize("precision", PRECISIONS)
def test_good_model_passes_at_the_default_sizes(
    still: Case, precision: Precision, tmp_path: Path
) -> None:
    """The untouched graph passes on the probes that the commands use by default."""
    file = write(to_precision(still.model, precision, precision), tmp_path / "good.onnx")
    report = judge(still.reference, [read_artifact(file)])
    assert report.passed
    sizes = {size for size, _ in default_sizes(1)} | {drawn_size(file.read_bytes())}
    assert {row.size for row in report.rows} == sizes | {candidates.LARGE}
    assert any(row.batch == 2 for row in report.rows)


# --- broken graphs -------------------------------------------------------------------------

REALTIME_BREAKS: dict[str, Break] = {
    "filter of the base off by 0.1 %": off_by_a_thousandth("base.blur.h.weight"),
    "first convolution off by 0.1 %": off_by_a_thousandth("conv_in.weight"),
    "depthwise weight off by 0.1 %": off_by_a_thousandth("body.0.blocks.1.dw.weight"),
    "gamma off by 0.1 %": off_by_a_thousandth("body.0.blocks.0.scale.gamma"),
    "last bias off by 0.1 %": off_by_a_thousandth("conv_out.bias"),
    "detail gain off by 0.1 %": off_by_a_thousandth("detail_gain"),
    "two output channels swapped": weight("conv_mid.weight", swap_channels),
    "colours in the other order": weight("conv_out.weight", lambda w: w[::-1]),
    "gamma of a block zeroed": weight("body.0.blocks.1.scale.gamma", np.zeros_like),
    "no detail": weight("detail_gain", np.zeros_like),
    "GELU by tanh": tanh_gelu,
    "output clamped": behind(real(low=0, high=1) + "output = Clip(y, low, high)"),
    "another upsampler_alpha": another(upsampler_alpha=0.35),
    "edges repeated": edges_repeated,
}


@pytest.mark.parametrize("break_it", REALTIME_BREAKS.values(), ids=REALTIME_BREAKS.keys())
def test_broken_graph_fails(
    break_it: Break, still: Case, verdict: Callable[..., ParityReport]
) -> None:
    """A float32 graph with one thing wrong fails."""
    report = verdict(still, break_it(still))
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
    break_it: Break, precision: Precision, still: Case, verdict: Callable[..., ParityReport]
) -> None:
    """The tolerance for half precision hides rounding, and no mistake."""
    report = verdict(still, break_it(still), precision)
    assert not report.passed
    assert failures(report) <= ERRORS


PHOTO_BREAKS: dict[str, Break] = {
    "another window_size": another(upsampler_alpha=0.3, window_size=8),
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


def test_changed_border_is_named(still: Case, verdict: Callable[..., ParityReport]) -> None:
    """A graph that is wrong at its border alone fails by that name; the interior is reported."""
    report = verdict(still, edges_repeated(still))
    assert failures(report) == {"error at the border"}
    for row in report.rows:
        assert row.found.interior_max_abs <= row.limit < row.found.border_max_abs


def test_baked_size_cannot_run(photo: Case, tmp_path: Path) -> None:
    """A graph that was baked at the traced size passes there and cannot run elsewhere."""
    file = write(baked_size(photo), tmp_path / "baked.onnx")
    assert judge(photo.reference, [read_artifact(file)], ParityPlan(sizes=(Size(32, 32),))).passed
    report = judge(
        photo.reference,
        [read_artifact(file)],
        ParityPlan(sizes=(Size(32, 32), Size(17, 33))),
    )
    assert not report.passed
    for row in report.rows:
        assert row.failure.startswith("cannot run") == (row.size != Size(32, 32))


def test_graph_without_its_crop(photo: Case, tmp_path: Path) -> None:
    """A graph that is right at every multiple of the window and lacks the crop fails elsewhere."""
    model = without_crop(photo)
    file = write(model, tmp_path / "uncropped.onnx")
    right = judge(
        photo.reference,
        [read_artifact(file)],
        ParityPlan(sizes=(Size(16, 32), Size(32, 32))),
    )
    assert right.passed
    assert not judge(
        photo.reference, [read_artifact(file)], ParityPlan(sizes=(Size(17, 33),))
    ).passed


# --- overflow ------------------------------------------------------------------------------


def test_overflow_in_half_is_named(still: Case, verdict: Callable[..., ParityReport]) -> None:
    """A graph whose middle leaves half's range passes in float32 and bfloat16, not in float16."""
    model = overflowing(still)
    assert verdict(still, model).passed
    assert verdict(still, model, Precision.BF16).passed
    report = verdict(still, model, Precision.FP16)
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
    still: Case,
    good_runners: dict[Precision, Runner],
    probes: list[Probe],
) -> None:
    """An output that is wrong in one way fails in every precision, and the verdict names how."""
    runner = Altered(good_runners[precision], change)
    candidate = Candidate(name="altered", runner=runner, precision=precision)
    report = verify(still.reference, [candidate], probes[1:])
    assert not report.passed
    found = failures(report)
    assert any(f == failure or f.startswith(failure + " [") for f in found), found


@pytest.fixture(scope="module")
def good_runners(still: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Runner]:
    folder = tmp_path_factory.mktemp("good")
    runners = {}
    for precision in PRECISIONS:
        model = to_precision(still.model, precision, Precision.FP32)
        file = write(model, folder / f"{precision.value}.onnx")
        runners[precision] = open_candidate(
            read_artifact(file), still.reference.inputs, still.reference.outputs
        ).candidate.runner
    return runners


def test_failures_do_not_spread(
    still: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """Of several candidates each has its own rows, and one that fails fails the report."""
    good = Candidate(name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32)
    runner = Altered(good.runner, on_output(with_pixel(math.nan)))
    bad = Candidate(name="bad", runner=runner, precision=Precision.FP32)
    report = verify(still.reference, [good, bad], probes[:2])
    assert not report.passed
    assert [row.candidate for row in report.rows] == ["good", "bad", "good", "bad"]
    assert {row.candidate for row in report.rows if row.failure} == {"bad"}


def test_nothing_compared_is_no_pass(
    still: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """Without candidates, or without probes, there is no verdict to pass."""
    good = Candidate(name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32)
    assert not verify(still.reference, [], probes[:1]).passed
    assert not verify(still.reference, [good], []).passed
    assert not judge(still.reference, []).passed


def test_notes_advise_flags_that_exist(tmp_path: Path) -> None:
    """A file of another checkpoint fails, and no note sends the user to a flag that is not there."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    made_from = save(tensors, tmp_path / "a.safetensors")
    tensors["detail_gain"] = np.array(0.35, np.float32)
    other = case_of(save(tensors, tmp_path / "b.safetensors"), upsampler_alpha=0.1)
    file = tmp_path / "a.onnx"
    assert export(ExportPlan(checkpoint=made_from, output=file)).parity.passed
    report = judge(other.reference, [read_artifact(file)], ParityPlan(sizes=(Size(9, 12),)))
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


def opened(file: Path, case: Case) -> Candidate:
    return open_candidate(
        read_artifact(file), case.reference.inputs, case.reference.outputs
    ).candidate


# --- video ---------------------------------------------------------------------------------


def forgetful(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return {**results, "feature_map": np.zeros_like(results["feature_map"])}


def without_map(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    return {"output": results["output"]}


@pytest.mark.parametrize("change", [forgetful, without_map])
def test_lost_features_fail(change: Callable[..., Arrays], video: Case, tmp_path: Path) -> None:
    """A video model that loses the features of the frame before fails."""
    good = opened(write(video.model, tmp_path / "video.onnx"), video)
    bad = Candidate(name="bad", runner=Altered(good.runner, change), precision=Precision.FP32)
    clip = [video_probe(3, Size(9, 12), frames=4)]
    assert verify(video.reference, [good], clip).passed
    report = verify(video.reference, [bad], clip)
    assert not report.passed
    assert failures(report) & {"error", "constant", "output missing"}


def test_dimmed_first_frame_fails(video: Case, tmp_path: Path) -> None:
    """A video model that blends a first frame or a cut with nothing fails."""
    good = opened(write(video.model, tmp_path / "video.onnx"), video)

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


@dataclass
class OtherUnits:
    """A runner, or a reference, whose features are multiplied by a factor wherever they are seen."""

    inner: Any
    factor: float
    name: str = "other units"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def runner(self, dtype: str, **options: Any) -> OtherUnits:
        return OtherUnits(self.inner.runner(dtype, **options), self.factor)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        results = self.inner.infer({**feeds, "prev_feat": feeds["prev_feat"] / self.factor})
        return {**results, "feature_map": results["feature_map"] * self.factor}


def features_off(results: Arrays, feeds: Mapping[str, np.ndarray]) -> Arrays:
    features = results["feature_map"].copy()
    features.flat[0] += 0.1 * np.abs(features).max()
    return {**results, "feature_map": features}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("factor", [2.0**-13, 1.0, 2.0**10])
def test_features_are_judged_relative_to_their_peak(
    factor: float, precision: Precision, video: Case, tmp_path: Path
) -> None:
    """The unit of the features is the network's own: neither tiny nor large ones change a verdict."""
    model = to_precision(video.model, precision, Precision.FP32)
    good = opened(write(model, tmp_path / "video.onnx"), video)
    reference = OtherUnits(video.reference, factor)
    clip = [video_probe(3, Size(9, 12), frames=4)]
    for change, passes in ((None, True), (features_off, False)):
        runner: Any = Altered(good.runner, change) if change else good.runner
        candidate = replace(good, runner=OtherUnits(runner, factor), unrounded=None)
        report = verify(reference, [candidate], clip)
        assert report.passed is passes
        (row,) = (row for row in report.rows if row.output == "feature_map")
        assert row.full_range == row.reference_peak != 1.0


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
    assert [float(feeds["alpha"]) for feeds in seen] == pytest.approx([0, 0.5, 0, 0.2])
    assert not seen[0]["prev_feat"].any()
    for before, feeds in zip(played["feature_map"], seen[1:], strict=False):
        assert np.array_equal(feeds["prev_feat"][0], before)


# --- pictures on which the network itself diverges ------------------------------------------


def test_divergence_is_told_and_judged_relative_to_the_output(
    still: Case, good_runners: dict[Precision, Runner], tmp_path: Path
) -> None:
    """Where the float64 network blows up on a stress picture, a note says so."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["detail_gain"] = np.array(1.22, np.float32)
    case = case_of(save(tensors, tmp_path / "loud.safetensors"))
    candidate = Candidate(
        name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32
    )
    probes = still_probes(3, [(Size(17, 33), 1)])
    photograph, stress = verify(case.reference, [candidate], probes).rows
    assert photograph.is_judged
    assert stress.is_judged
    assert photograph.failure == stress.failure == "error"
    assert "diverges" in verify(case.reference, [candidate], probes).notes[0]
    only_stress = verify(case.reference, [candidate], probes[1:])
    assert not only_stress.passed


def test_divergence_on_pictures_of_the_user_is_told(
    loud: Case, good_runners: dict[Precision, Runner]
) -> None:
    """They are judged like photographs: the note says why a right file may fail on them."""
    candidate = Candidate(
        name="another", runner=good_runners[Precision.FP32], precision=Precision.FP32
    )
    photograph, stress = still_probes(3, [(Size(17, 33), 1)])
    drawing = replace(stress, label="drawing.png", is_stress=False)
    report = verify(loud.reference, [candidate], [photograph, stress, drawing])
    relative, note = [note for note in report.notes if "diverges" in note]
    assert relative.endswith("judged relative to it")
    assert note.startswith("the network itself diverges on drawing.png 17x33: its float64 output")
    assert [row.has_diverged for row in report.rows] == [False, True, False]


NAN_ABOVE_4 = real(four=4) + (
    "zero = Sub(y, y) nan = Div(zero, zero) high = Greater(y, four) output = Where(high, nan, y)"
)

CLAMPED_TO_4 = real(low=-4, high=4) + "output = Clip(y, low, high)"


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return a network whose output exceeds 4 on stress pictures alone."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["detail_gain"] = np.array(1.22, np.float32)
    return case_of(save(tensors, tmp_path_factory.mktemp("loud") / "loud.safetensors"), opset=22)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("static", [None, Size(48, 21)])
def test_pictures_on_which_the_network_diverges_are_judged(
    static: Size | None, precision: Precision, loud: Case, tmp_path: Path
) -> None:
    """NaN and wrong values there fail a file that is right wherever the output is a picture."""
    case = loud
    if static:
        graph = trace(loud.reference.module, *loud.reference.fixed(static), 22)
        case = replace(loud, model=graph)
    models = {"good": case.model}
    models |= {name: behind(body)(case) for name, body in
               {"nan": NAN_ABOVE_4, "clamped": CLAMPED_TO_4}.items()}  # fmt: skip
    reports = {
        name: judge(
            loud.reference,
            [read_artifact(write(to_precision(model, precision, Precision.FP32), tmp_path / name))],
        )
        for name, model in ((f"{name}.onnx", model) for name, model in models.items())
    }
    assert reports["good.onnx"].passed
    assert any("diverges on saturated" in note for note in reports["good.onnx"].notes)
    assert failures(reports["nan.onnx"]) == {"non-finite"}
    assert failures(reports["clamped.onnx"]) & {"error", "error at the border"}
    for name in ("nan.onnx", "clamped.onnx"):
        failed = [row for row in reports[name].rows if row.failure]
        assert all(row.has_diverged for row in failed)


@pytest.mark.parametrize(
    ("own", "found", "judged"),
    [(math.inf, math.inf, False), (0.1, math.inf, True), (math.inf, 0.1, True)],
)
def test_an_overflow_that_pytorch_shares_is_no_fault_where_the_network_diverges(
    own: float, found: float, judged: bool
) -> None:
    """Half's range is no fault of the file; a NaN of its own is."""
    gap = Difference(found, 0, found, found, math.isfinite(found), False)
    row = replace(row_with(Precision.FP16, own), found=gap, is_stress=True, reference_peak=300.0)
    assert row.is_judged is judged
    assert row.failure == ("non-finite" if judged and math.isinf(found) else "")
    assert replace(row, reference_peak=1.0).is_judged


def test_where_float64_overflows_nothing_is_judged() -> None:
    for peak in (math.inf, math.nan):
        row = replace(row_with(Precision.FP32, math.inf), is_stress=True, reference_peak=peak)
        assert not row.is_judged
        assert replace(row, is_stress=False).is_judged


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
        criteria=default_criteria(precision),
    )


@pytest.mark.parametrize(
    ("reference", "limit"),
    [(0.0, 1e-6), (1e-7, 1e-6), (2.5e-7, 1e-6), (1e-6, 4e-6), (2.5e-6, 1e-5), (3e-6, 1e-5),
     (6.5e-5, 1.95e-4)],
)  # fmt: skip
def test_float32_limit(reference: float, limit: float) -> None:
    """It is 4 times what PyTorch errs, or 1e-6; from 1e-5 on, 3 times what PyTorch errs."""
    row = row_with(Precision.FP32, reference)
    assert row.limit == pytest.approx(limit, rel=1e-12)
    bar = max(1e-5, 3 * reference)
    assert row.limit == pytest.approx(min(bar, max(4 * reference, 1e-6)), rel=1e-12)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("own", [3e-7, 9.9e-6, 6.5e-5, 2e-3, 0.3, 40.0])
def test_nearer_to_the_truth_than_pytorch_is_never_refused(
    precision: Precision, own: float
) -> None:
    """Whatever PyTorch errs, a candidate that errs as much or less passes."""
    assert row_with(precision, own, own).failure == ""
    assert row_with(precision, own, 0.9 * own).failure == ""
    assert row_with(precision, own, 5 * max(own, 2.0**-11)).failure == "error"


@pytest.mark.parametrize(
    ("precision", "limit"), [(Precision.FP32, 1e-5), (Precision.FP16, 0.05), (Precision.BF16, 0.25)]
)
@pytest.mark.parametrize("own", [math.inf, math.nan])
def test_where_pytorch_overflows_the_limit_is_finite(
    precision: Precision, limit: float, own: float
) -> None:
    """An infinite yardstick allows no infinite error."""
    row = row_with(precision, own, limit)
    assert row.limit == limit
    assert row.failure == ""
    assert row_with(precision, own, 1.01 * limit).failure == "error"


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize("reference", [0.0, 1e-5, 1e-3, 0.5])
def test_half_limit(precision: Precision, reference: float) -> None:
    """No pixel of a half candidate may err more than 4 times PyTorch's largest error.

    PyTorch's counts as at least a quarter of the largest rounding error in [0, 1].
    """
    floor = {Precision.FP16: 2.0**-14, Precision.BF16: 2.0**-11}[precision]
    limit = 4 * max(reference, floor)
    assert row_with(precision, reference).limit == pytest.approx(limit, rel=1e-12)


def distributed(precision: Precision, images: int = 12, **changes: Any) -> ParityRow:
    """Return a row whose errors are distributed as PyTorch's, but for the changes."""
    own = Difference(1e-2, 60.0, 1e-2, 1e-2, True, False, rms=1e-3, high=4e-3)
    overall = Ratios(*changes.pop("overall", (1.0, 1.0, 1.0)))
    moved = {name: changes.pop(name, 0.0) for name in ("moved_rms", "moved_high")}
    found = replace(own, **changes)
    row = replace(row_with(precision, own.max_abs), **moved)
    return replace(row, found=found, reference_errors=own, overall=overall, images=images)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
@pytest.mark.parametrize(
    ("images", "changes", "failure"),
    [
        (12, {}, ""),
        (12, {"max_abs": 3.9e-2}, ""),
        (12, {"max_abs": 4.1e-2}, "error at the border"),
        (12, {"rms": 1.9e-3}, ""),
        (12, {"rms": 2.1e-3}, "RMS error"),
        (12, {"rms": math.nan}, "RMS error"),
        (12, {"rms": 2.1e-3, "moved_rms": 1.1e-3}, ""),  # one rounding of the input does as much
        (12, {"rms": 2.3e-3, "moved_rms": 1.1e-3}, "RMS error"),
        (12, {"high": 1.1e-2, "moved_high": 5e-3}, ""),
        (12, {"high": 1.3e-2, "moved_high": 5e-3}, "error of 1 %"),
        (12, {"high": 9.9e-3}, ""),
        (12, {"high": 1.1e-2}, "error of 1 %"),
        (16, {"rms": 1.4e-3, "overall": (1.24, 1, 1)}, ""),
        (16, {"rms": 1.4e-3, "overall": (1.26, 1, 1)}, "mean error over all"),
        (36, {"high": 6e-3, "overall": (1, 1.24, 1)}, ""),
        (36, {"high": 6e-3, "overall": (1, 1.26, 1)}, "mean error over all"),
        (36, {"max_abs": 1.5e-2, "overall": (1, 1, 1.24)}, ""),
        (36, {"max_abs": 1.5e-2, "overall": (1, 1, 1.26)}, "mean error over all"),
        (16, {"rms": 1.2e-3, "overall": (1.26, 1, 1)}, ""),  # other images cause the mean
        (4, {"rms": 1.6e-3, "overall": (1.49, 1, 1)}, ""),  # a mean of few varies
        (4, {"rms": 1.6e-3, "overall": (1.51, 1, 1)}, "mean error over all"),
        (5, {"max_abs": 1.8e-2, "overall": (1, 1, 1.66)}, ""),  # one of large errors varies more
        (5, {"max_abs": 1.8e-2, "overall": (1, 1, 1.68)}, "mean error over all"),
        (5, {"high": 7e-3, "overall": (1, 1.66, 1)}, ""),
        (5, {"high": 7e-3, "overall": (1, 1.68, 1)}, "mean error over all"),
    ],
)
def test_half_errors_are_distributed_as_those_of_pytorch(
    images: int, changes: dict[str, Any], failure: str, precision: Precision
) -> None:
    """The largest error has room; what all pixels, or the worst 1 %, err has little."""
    assert distributed(precision, images, **changes).failure == failure


@pytest.mark.parametrize(("precision", "bar"), [(Precision.FP16, 50.0), (Precision.BF16, 30.0)])
def test_an_image_that_pytorch_computes_too_coarsely_may_be_as_coarse(
    precision: Precision, bar: float
) -> None:
    """The bar of decibels gives way to PyTorch's own error, and to nothing else."""
    row = distributed(precision, psnr_db=bar - 2)
    assert row.failure == "PSNR"
    assert row.reference_errors is not None
    coarse = replace(row, reference_errors=replace(row.reference_errors, psnr_db=bar - 1))
    assert coarse.failure == ""
    assert replace(coarse, found=replace(coarse.found, psnr_db=bar - 8)).failure == "PSNR"
    lost = replace(row.reference_errors, psnr_db=-math.inf, is_finite=False)
    assert replace(row, reference_errors=lost).failure == "PSNR"


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
    still: Case, good_runners: dict[Precision, Runner], probes: list[Probe]
) -> None:
    """A caller may be stricter than the defaults."""
    impossible = replace(
        Tolerance.for_precision(Precision.FP32), max_abs=0, times_reference=0, times_beyond=0
    )
    candidate = Candidate(
        name="good", runner=good_runners[Precision.FP32], precision=Precision.FP32
    )
    report = verify(
        still.reference, [candidate], probes[1:2], {Precision.FP32: image_criteria(impossible)}
    )
    assert not report.passed


def test_reference_error_is_of_the_same_precision(
    still: Case, good_runners: dict[Precision, Runner], probes: Sequence[Probe]
) -> None:
    """Beside a candidate stands what PyTorch errs in the candidate's own precision."""
    candidates = [Candidate(name=p.value, runner=good_runners[p], precision=p) for p in PRECISIONS]
    report = verify(still.reference, candidates, probes[1:2])
    by_name = {row.candidate: row.reference_max_abs for row in report.rows}
    assert by_name["fp32"] < 1e-5 < 10 * by_name["fp16"] < 10 * by_name["bf16"]
    assert isinstance(good_runners[Precision.FP32], IsolatedRunner)
