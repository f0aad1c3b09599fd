"""Large pictures: what is wrong only there fails, and what is right passes, on an excerpt."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragon_export.engines.manifest import EngineFile
from paragon_export.errors import PlanError
from paragon_export.graph.trace import trace
from paragon_export.inputs.excerpt import BLOCK_PX, excerpt, strips
from paragon_export.inputs.large import LARGE, large_probe, smaller
from paragon_export.inputs.play import play
from paragon_export.networks.cost import cost_per_pixel
from paragon_export.networks.describe import load_network
from paragon_export.networks.paragonsr2.v0_v5 import SEVERAL_REGIONS_PX, attention
from paragon_export.parity import parts
from paragon_export.parity.candidates import Candidate, OpenedArtifact, read_artifact
from paragon_export.parity.check import check_parity, judge
from paragon_export.parity.compare import verify
from paragon_export.parity.parts import ROOM_PX, Part, Parts
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.parity.report import ParityReport
from paragon_export.parity.truth import Truth, Truths
from paragon_export.parity.yardstick import Yardstick
from paragon_export.pipeline.build import build
from paragon_export.pipeline.export import export_onnx
from paragon_export.runtimes.base import Arrays
from paragon_export.specs.plans import EnginePlan, ExportPlan, ParityPlan
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.glyph import SMALL as SMALL_GRIDS
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.recorded import OLDER, recorded_weights
from paragon_export.testing.sabotage.case import Break, Case, case_of
from paragon_export.testing.sabotage.rare import LARGE as WRONG_WHEN_LARGE
from paragon_export.testing.sabotage.rare import LARGE_AT
from paragon_export.testing.sabotage.suite import Sabotage, written
from paragon_export.testing.tiny import save
from tests.conftest import Finished, RunHere

OF_MEANS = 3e-6
"""Part of the peak by which outputs differ where kernels are made of means of float32 features."""

SMALL = (Size(24, 20), Size(17, 33))

OUTSIDE = "error outside the excerpt"

RISE = 40.0


def judged(
    case: Case, make: Break, path: Path, at: Size = LARGE_AT, precision: Precision = Precision.FP32
) -> ParityReport:
    file = written(Sabotage("", "", make, precision=precision), case, path / "net.onnx")
    return judge(case.reference, [read_artifact(file)], ParityPlan(sizes=SMALL, at=(at,)))


def failing(report: ParityReport) -> set[Size]:
    return {row.size for row in report.rows if row.failure}


# --- wrong only on large pictures -------------------------------------------------------------


@pytest.mark.parametrize("make", WRONG_WHEN_LARGE.values(), ids=WRONG_WHEN_LARGE)
def test_wrong_only_above_a_size_fails_and_is_named(
    make: Break, still: Case, tmp_path: Path
) -> None:
    report = judged(still, make, tmp_path)
    assert failing(report) == {LARGE_AT}
    (finding,) = report.findings
    assert finding.symptom == "large sizes"
    assert str(LARGE_AT) in finding.detail


def test_video_that_is_wrong_above_a_size_fails(video: Case, tmp_path: Path) -> None:
    report = judged(video, WRONG_WHEN_LARGE["area above 100000"], tmp_path)
    assert failing(report) == {LARGE_AT}


def test_half_precision_that_is_wrong_above_a_size_fails(still: Case, tmp_path: Path) -> None:
    make = WRONG_WHEN_LARGE["area above 100000"]
    report = judged(still, make, tmp_path, precision=Precision.FP16)
    assert failing(report) == {LARGE_AT}


class Spoiled:
    """The reference in float32, with one pixel of the image changed."""

    def __init__(self, reference: TorchReference, row: int, column: int, value: float) -> None:
        self.name, self._runner = "spoiled", reference.runner("float32")
        self._place, self._value = (row, column), value

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        output = self._runner.infer(feeds)["output"].copy()
        output[..., self._place[0], self._place[1]] += self._value
        return {"output": output}


@pytest.fixture(scope="module")
def truths(still: Case) -> Truths:
    return Truths(still.reference)


def spoiled(
    truths: Truths, row: int, column: int, value: float, precision: Precision = Precision.FP32
) -> ParityReport:
    reference = truths.reference
    assert isinstance(reference, TorchReference)
    runner = Spoiled(reference, row, column, value)
    candidate = Candidate(name="spoiled", runner=runner, precision=precision)
    return verify(reference, [candidate], [large_probe(3, LARGE_AT)], truths=truths)


@pytest.mark.parametrize("column", [0, LARGE_AT.width, -1], ids=["left", "center", "right"])
@pytest.mark.parametrize("row", [0, LARGE_AT.height, -1], ids=["top", "middle", "bottom"])
def test_corners_edges_and_center_are_compared(row: int, column: int, truths: Truths) -> None:
    """The image is twice as large as the input: its center is at the height of the input."""
    assert failing(spoiled(truths, row, column, 0.01)) == {LARGE_AT}


@pytest.mark.parametrize(
    ("value", "failure"),
    [(0.0, ""), (1e-4, OUTSIDE), (-0.01, OUTSIDE), (float("nan"), "non-finite")],
)
@pytest.mark.parametrize("place", [(100, 101), (527 - 60, 911 - 70)])
def test_an_error_fails_wherever_it_is(
    place: tuple[int, int], value: float, failure: str, truths: Truths
) -> None:
    """No block that is compared with float64 covers these places."""
    (row,) = spoiled(truths, *place, value).rows
    assert row.failure == failure
    if np.isfinite(value):
        assert row.found.max_abs <= row.limit
        assert row.to_json()["float32_gap"] == pytest.approx(abs(value), abs=1e-6)


def test_half_precision_may_be_off_float32_by_its_rounding(truths: Truths) -> None:
    """The limit there is that of half precision; twice the error allowed is too much."""
    probe = large_probe(3, LARGE_AT)
    limit = truths.on(probe, [Precision.FP16]).own[Precision.FP16]["output"].max_abs
    for value, failure in ((limit / 2, ""), (0.1, OUTSIDE)):
        (row,) = spoiled(truths, 100, 101, value, Precision.FP16).rows
        assert row.failure == failure


# --- far larger outside the excerpt ------------------------------------------------------------


class Rising(nn.Module):
    """A picture of twice the size. Where its slope is above a level it rises far beyond white."""

    def __init__(self, level: float, rise: float) -> None:
        super().__init__()
        self.level, self.rise = level, rise

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.rise * functional.relu(slope(x) - self.level)
        return functional.interpolate(y, scale_factor=2.0)


def slope(x: Tensor) -> Tensor:
    """Return the difference from the pixel above."""
    return (x - functional.pad(x, (0, 0, 1, 0), mode="replicate")[..., :-1, :]).abs()


@pytest.fixture(scope="module")
def rising(still: Case) -> TorchReference:
    """A network whose output is far beyond white on a large picture, but not on its excerpt."""
    probe = large_probe(3, LARGE_AT)
    found = slope(torch.from_numpy(probe.frames[0]))
    shown = excerpt(LARGE_AT, 2 * ROOM_PX, 1).blocks(found.numpy(), 1, kept=False).max()
    assert found.max() > 1.2 * shown
    return replace(still.reference, module=Rising(float(shown), RISE))


@pytest.mark.parametrize(("rise", "failure"), [(RISE, ""), (1.02 * RISE, OUTSIDE)])
def test_outputs_far_beyond_white_are_judged_by_what_pytorch_errs_there(
    rise: float, failure: str, rising: TorchReference
) -> None:
    """The excerpt shows none of them, and no error of their size."""
    module = Rising(rising.module.level, rise)
    runner = replace(rising, module=module).runner("float16", nudge=2)
    candidate = Candidate(name="candidate", runner=runner, precision=Precision.FP16)
    (row,) = verify(rising, [candidate], [large_probe(3, LARGE_AT)]).rows
    assert row.failure == failure
    assert row.around_gap is not None
    assert row.around_gap.peak > 8 * row.reference_peak
    assert replace(row, around_gap=None).failure == OUTSIDE


# --- right ones -------------------------------------------------------------------------------


def loaded(name: str, folder: Path) -> TorchReference:
    case = OLDER[name]
    file = save(recorded_weights(case), folder / "net.safetensors")
    flags: dict[str, Any] = {"scale": case["kwargs"]["scale"]}
    if case["switches"].get("hier"):
        flags["attention_mode"] = "hierarchical"
    if case["version"] == "v5h":
        flags["attention_mode"] = "global"
    network = load_network(file, **flags)
    return build_reference(network)


def excerpts_agree(reference: TorchReference, size: Size, limit: float) -> Parts:
    """Compare float64 on excerpts with float64 on the whole picture.

    One has the center of the picture, the others have places near a corner and between.
    """
    found = Parts(reference)
    probe = large_probe(reference.input_spec.channels, size, video=reference.video)
    part = found.of(probe)
    assert part.excerpt is not None
    exact = reference.runner("float64")
    whole_outputs = play(exact, probe, reference.inputs)
    places = (2, size.width - 3), (size.height // 3, size.width // 3)
    for each in (part, *(found.around(part, place) for place in places)):
        for name, output in each.play(exact, reference.inputs).items():
            expected = each.of_candidate(name, whole_outputs[name])
            assert each.whole_shape(name, output) == whole_outputs[name].shape
            peak = max(1.0, float(np.abs(expected).max()))
            assert np.abs(output - expected).max() <= limit * peak, name
    return found


@pytest.fixture
def any_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take excerpts of small pictures too, and of any share."""
    monkeypatch.setattr(parts, "LARGE_PIXELS", 0)
    monkeypatch.setattr(parts, "MAX_EXCERPT_SHARE", 1.0)


@pytest.mark.usefixtures("any_excerpt")
@pytest.mark.parametrize("is_video", [False, True], ids=["still", "video"])
@pytest.mark.parametrize("variant", ["realtime", "stream", "photo"])
def test_an_excerpt_computes_what_the_whole_picture_computes(
    variant: str, is_video: bool, tiny_checkpoints: dict[str, Path]
) -> None:
    network = load_network(tiny_checkpoints[variant])
    reference = build_reference(network, video=is_video)
    excerpts_agree(reference, Size(288, 24) if variant == "photo" else Size(90, 300), limit=1e-9)


@pytest.mark.usefixtures("any_excerpt")
@pytest.mark.parametrize("is_video", [False, True], ids=["still", "video"])
@pytest.mark.parametrize("variant", ["realtime", "photo", "pro"])
def test_float32_in_strips_is_float32_on_the_whole_picture(
    variant: str,
    is_video: bool,
    tiny_checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "MAX_STRIP_VALUES", 1)
    reference = build_reference(load_network(tiny_checkpoints[variant]), video=is_video)
    found = Parts(reference)
    probe = large_probe(3, Size(8 * found.reach + 24, 40), video=is_video)
    cut: list[int] = []
    monkeypatch.setattr(
        parts, "strips", lambda *args: cut.append(len(strips(*args))) or strips(*args)
    )
    expected = play(reference.runner("float32"), probe, reference.inputs)
    computed = found.of(probe).float32
    assert computed.keys() == expected.keys()
    for name, output in computed.items():
        assert output.shape == expected[name].shape
        peak = max(1.0, float(np.abs(expected[name]).max()))
        assert np.abs(output - expected[name]).max() <= 3e-6 * peak, name
    assert [count > 1 for count in cut] == ([] if variant == "pro" else [True])


@pytest.mark.parametrize(("step", "margin", "rows"), [(1, 7, 50), (16, 40, 160), (24, 66, 264)])
@pytest.mark.parametrize("height", [20, 264, 1080])
def test_strips_hold_each_row_once_and_what_it_depends_on(
    step: int, margin: int, rows: int, height: int
) -> None:
    found = strips(height, rows, margin, step)
    assert sorted(np.concatenate([strip.own for strip in found])) == list(range(height))
    assert len(found) > 1 or height < rows + 2 * (margin + step)
    for strip in found:
        ends = np.flatnonzero(np.diff(strip.kept) != 1)
        assert all(strip.kept[[0, *ends + 1]] % step == 0)
        assert all((strip.kept[ends] + 1) % step == 0)
        assert len(strip.kept) % step in (0, height % step)
        around = (strip.own[:, None] + np.arange(-margin, margin + 1)) % height
        assert set(around.ravel()) <= set(strip.kept)


@pytest.mark.usefixtures("any_excerpt")
def test_means_are_those_of_the_whole_picture(tiny_pro: Path) -> None:
    reference = build_reference(load_network(tiny_pro))
    found = excerpts_agree(reference, Size(24, 280), limit=1e-7)
    assert len(found.of(large_probe(3, Size(24, 280))).means) > 0


@pytest.mark.usefixtures("any_excerpt")
@pytest.mark.parametrize("name", ["v45g_tiny_x2_24x20", "psr1-ps_nano_x2_24x20"])
def test_earlier_networks_agree_too(name: str, tmp_path: Path) -> None:
    excerpts_agree(loaded(name, tmp_path), Size(90, 250), limit=OF_MEANS)


@pytest.mark.slow  # minutes: float64 on whole pictures, for every network
@pytest.mark.usefixtures("any_excerpt")
@pytest.mark.parametrize("name", OLDER)
def test_every_earlier_network_agrees(name: str, tmp_path: Path) -> None:
    reference = loaded(name, tmp_path)
    found = Parts(reference)
    if not found.has_excerpts:
        assert "hier" in name or name.startswith("v5h")
        return
    side = 2 * found.reach + 100
    excerpts_agree(reference, Size(side + 8, side + 200), limit=OF_MEANS)


def test_a_network_that_compares_all_pixels_has_no_excerpt(tmp_path: Path) -> None:
    name = next(name for name in OLDER if "hier" in name)
    found = Parts(loaded(name, tmp_path))
    assert not found.has_excerpts
    assert found.most_pixels <= parts.MAX_WHOLE_PIXELS
    assert found.of(large_probe(3, LARGE_AT)).excerpt is None


@pytest.mark.slow  # float64 with attention over 16512 pixels
def test_a_lost_branch_of_hierarchical_attention_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file attends the whole map at every size; from 129x128 on the network attends regions."""
    reference = loaded("v5_nano_x2_48x48_hier", tmp_path)
    case = Case(reference.network.checkpoint, reference.spec, reference, None)  # type: ignore[arg-type]
    failed = []
    for pixels in (attention.MAX_WHOLE_MAP_PIXELS, 2**15):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "MAX_WHOLE_MAP_PIXELS", pixels)
            model = trace(reference.module, reference.inputs, reference.outputs, 20)
        file = written(Sabotage("", "", lambda _, m=model: m), case, tmp_path / "net.onnx")
        failed.append(failing(judge(reference, [read_artifact(file)])))
    assert failed == [set(), {Size(*SEVERAL_REGIONS_PX)}]


def test_a_network_that_reaches_far_has_no_excerpt(
    still: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LARGEST_REACH_PX", 4)
    assert not Parts(still.reference).has_excerpts


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_slow_network_is_compared_with_float32(
    precision: Precision, still: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MAX_EXCERPT_FLOPS", 1e8)
    part = Parts(still.reference).of(large_probe(3, LARGE_AT))
    assert (part.excerpt, part.is_slow) == (None, True)
    smaller_one = Parts(still.reference).of(large_probe(3, Size(100, 120)))
    assert smaller_one.is_slow  # although it has less than LARGE_PIXELS
    right = judged(still, lambda case: case.model, tmp_path, precision=precision)
    assert right.passed, right.findings
    wrong = judged(
        still, WRONG_WHEN_LARGE["one pixel, area above 100000"], tmp_path, precision=precision
    )
    assert failing(wrong) == {LARGE_AT}
    assert {finding.symptom for finding in wrong.findings} == {"large sizes"}


@pytest.mark.parametrize("precision", Precision)
def test_right_files_pass(precision: Precision, still: Case, tmp_path: Path) -> None:
    report = judged(still, lambda case: case.model, tmp_path, precision=precision)
    assert report.passed, report.findings
    (row,) = (row for row in report.rows if row.size == LARGE_AT)
    assert row.is_excerpt
    assert row.to_json()["excerpt"] is True


# --- excerpts and sizes -----------------------------------------------------------------------


@pytest.mark.parametrize(("step", "margin"), [(1, 7), (16, 40), (24, 66)])
@pytest.mark.parametrize("size", [Size(1080, 1920), Size(333, 1001), Size(20, 4000)])
@pytest.mark.parametrize("share", [None, 0.0, 0.1, 0.37, 0.9, 0.999])
def test_parts_begin_where_windows_begin(
    share: float | None, step: int, margin: int, size: Size
) -> None:
    """Around the center, and around other places as a share of the height and the width."""
    extents = size.height, size.width
    row, column = (None if share is None else int(share * extent) for extent in extents)
    found = excerpt(size, margin, step, row, column)
    for axis, extent, place in (
        (found.rows, size.height, row),
        (found.columns, size.width, column),
    ):
        assert (np.diff(axis.kept) > 0).all()
        if place is not None:
            assert any(begin <= place < begin + axis.block for begin in axis.blocks)
        assert axis.kept[0] == 0
        assert axis.kept[-1] == extent - 1
        assert len(axis.kept) % step == extent % step
        seams = [int(i) + 1 for i in np.flatnonzero(np.diff(axis.kept) != 1)]
        for seam in seams:
            assert axis.kept[seam] % step == seam % step == 0
        for begin in axis.places(kept=True):
            for seam in seams:
                assert seam <= begin - margin or seam >= begin + axis.block + margin


def test_blocks_are_the_same_pixels_of_both() -> None:
    picture = np.arange(400 * 600, dtype=np.float64).reshape(1, 1, 400, 600)
    found = excerpt(Size(400, 600), 16, 8)
    cut = picture[..., found.rows.kept[:, None], found.columns.kept]
    blocks = found.blocks(cut, 1, kept=True)
    assert blocks.shape == (9, 1, BLOCK_PX, BLOCK_PX)
    assert (blocks == found.blocks(picture, 1, kept=False)).all()


def test_a_smaller_size_keeps_shape_and_residue() -> None:
    found = smaller(LARGE, 200_000)
    assert found.height % 16 == LARGE.height % 16 == 8
    assert found.width % 16 == 0
    assert 150_000 < found.height * found.width <= 200_000
    assert smaller(LARGE, 2**22) == LARGE
    assert smaller(LARGE, 1, smallest=4) == Size(8, 4)


def test_arithmetic_is_that_of_the_convolutions(still: Case) -> None:
    """Of a convolution from 3 to 8 channels, 3x3: 2 * 3 * 8 * 9 FLOPs a pixel, and so on."""
    from torch import nn

    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1))
    inputs = still.reference.inputs
    found = cost_per_pixel(layers, inputs)
    assert found.flops == 2 * 3 * 8 * 9 + 2 * 8 * 3
    assert found.values == 8


def test_a_slow_network_is_judged_at_less_and_a_note_says_so(
    still: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paragon_export.parity.candidates.LARGE", LARGE)
    monkeypatch.setattr(parts, "MAX_CANDIDATE_PIXELS", 5000)
    file = written(Sabotage("", "", lambda case: case.model), still, tmp_path / "net.onnx")
    report = judge(still.reference, [read_artifact(file)])
    at = smaller(LARGE, 5000)
    assert at in {row.size for row in report.rows}
    assert any(f"judged at {at} in place of 1080x1920" in note for note in report.notes)


def test_an_engine_is_judged_at_the_sizes_that_it_is_built_for() -> None:
    profile = Profile(smallest=Size(8, 8), optimal=Size(9, 16), largest=Size(18, 32))
    plan = EnginePlan(source=Path("a.onnx"), output=Path("a.engine"), profile=profile)
    assert plan.made_for == (Size(9, 16), Size(18, 32))


def test_sizes_made_for_are_judged(still: Case, tmp_path: Path) -> None:
    file = written(Sabotage("", "", lambda case: case.model), still, tmp_path / "net.onnx")
    plan = ParityPlan(made_for=(Size(40, 72),))
    report = judge(still.reference, [read_artifact(file)], plan)
    assert Size(40, 72) in {row.size for row in report.rows}


def test_a_size_that_the_file_does_not_accept_is_refused(
    tiny_realtime: Path, tmp_path: Path
) -> None:
    case = case_of(tiny_realtime, opset=22, upsampler_alpha=0.3)
    file = written(Sabotage("", "", lambda case: case.model), case, tmp_path / "net.onnx")
    with pytest.raises(PlanError, match="pixels"):
        check_parity(tiny_realtime, [file], at=["4096x4096"])
    with pytest.raises(PlanError, match="--at"):
        ExportPlan(checkpoint=tiny_realtime, output=tmp_path / "a.onnx", at=(Size(9999, 9999),))


def large_and_small_errors(found: Truths, gain: int = 1) -> tuple[Truth, float, float, float]:
    """Return the truth at a large size, PyTorch's error there and on small ones, and their peak.

    The small photographs are multiplied by ``gain``, and with them the errors on them.
    """
    probes = [large_probe(3, size) for size in SMALL]
    louder = [replace(probe, frames=tuple(f * gain for f in probe.frames)) for probe in probes]
    small = [found.on(probe, [Precision.FP32]) for probe in louder]
    large = found.on(large_probe(3, LARGE_AT), [Precision.FP32])
    errors = [truth.own[Precision.FP32]["output"].max_abs for truth in (large, *small)]
    peak = max(float(np.abs(truth.outputs["output"]).max()) for truth in small)
    return large, errors[0], max(errors[1:]), peak


def test_an_output_without_bounds_does_not_scale_pytorchs_error(
    still: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow network that diverges on the large photograph alone is judged, not a crash."""
    monkeypatch.setattr(parts, "MAX_EXCERPT_FLOPS", 1e8)
    yardstick = Yardstick(still.reference, Precision.FP32)
    shared = Parts(still.reference)
    exact = still.reference.runner("float64")
    small, large = (shared.of(large_probe(3, size)) for size in (SMALL[0], LARGE_AT))
    known = yardstick.errors(small, small.play(exact, still.reference.inputs))
    for value in (np.inf, np.nan):
        assert yardstick.errors(large, {"output": np.full((1, 3, 8, 8), value)}) == known


@pytest.mark.parametrize("gain", [1, 32])
def test_pytorchs_error_on_a_large_photograph_is_measured_there(gain: int, still: Case) -> None:
    """The one on small photographs counts as well."""
    large, error, on_small, _ = large_and_small_errors(Truths(still.reference), gain)
    output = large.part.play(still.reference.runner("float32"), still.reference.inputs)["output"]
    measured = np.abs(output.astype(np.float64) - large.outputs["output"]).max()
    assert bool(measured > on_small) is (gain == 1)
    assert error == max(measured, on_small)


def test_pytorchs_error_on_a_slow_network_grows_with_the_peak(
    still: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MAX_EXCERPT_FLOPS", 1e8)
    large, error, on_small, peak = large_and_small_errors(Truths(still.reference))
    assert large.part.is_slow
    ratio = float(np.abs(large.outputs["output"]).max()) / peak
    assert error == pytest.approx(on_small * max(1, ratio))


def test_what_candidates_share_is_computed_once(
    still: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Part] = []
    play_part = Part.play

    def counted(part: Part, *args: Any) -> Arrays:
        runs.append(part)
        return play_part(part, *args)

    monkeypatch.setattr(Part, "play", counted)
    found, probe = Truths(still.reference), large_probe(3, SMALL[0])
    first = found.on(probe, [Precision.FP32])
    known = len(runs)
    assert found.on(large_probe(3, SMALL[0]), [Precision.FP32]) is first
    assert len(runs) == known > 0
    found.on(probe, [Precision.FP16])  # another precision is computed, float64 is not again
    assert len(runs) == known + 2


# --- options ----------------------------------------------------------------------------------


def sizes_in(done: Finished) -> set[str]:
    assert done.code == 0, done.stderr
    return {row["size"] for row in json.loads(done.stdout)["rows"]}


class Spy:
    """A candidate, PyTorch in float32, that records in which thread each size runs."""

    def __init__(self, reference: TorchReference) -> None:
        self.runner, self.name = reference.runner("float32"), "spy"
        self.threads: dict[tuple[int, ...], int] = {}

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        self.threads[feeds["input"].shape[2:]] = threading.get_ident()
        return self.runner.infer(feeds)


def test_candidates_run_while_the_reference_does_unless_pictures_are_large(still: Case) -> None:
    """Both would take much memory there, at the same time."""
    spy = Spy(still.reference)
    candidate = Candidate(name="spy", runner=spy, precision=Precision.FP32)
    sizes = Size(16, 16), Size(512, 130)
    report = verify(still.reference, [candidate], [large_probe(3, size) for size in sizes])
    assert report.passed
    here = threading.get_ident()
    assert {size: each == here for size, each in spy.threads.items()} == {
        (16, 16): False,
        (512, 130): True,
    }


def test_commands_judge_at_the_sizes_of_at(tiny_realtime: Path, run_here: RunHere) -> None:
    at = ("--at", str(LARGE_AT), "--at", "40x44")
    made = run_here("onnx", tiny_realtime, "-o", "net.onnx", *at, "--json")
    assert {str(LARGE_AT), "40x44"} <= sizes_in(made)
    judged_again = run_here("parity", tiny_realtime, "net.onnx", *at, "--sizes", "9x9", "--json")
    assert sizes_in(judged_again) == {str(LARGE_AT), "40x44", "9x9"}


def test_export_and_check_take_sizes(tiny_realtime: Path, tmp_path: Path) -> None:
    made = export_onnx(tiny_realtime, tmp_path / "net.onnx", at=["40x44"])
    assert Size(40, 44) in {row.size for row in made.parity.rows}
    report = check_parity(tiny_realtime, [tmp_path / "net.onnx"], sizes=["9x9"], at=[Size(40, 44)])
    assert {row.size for row in report.rows} == {Size(9, 9), Size(40, 44)}


@pytest.mark.parametrize("is_onnx", [False, True], ids=["checkpoint", "onnx"])
def test_an_engine_of_a_profile_is_judged_at_its_sizes(
    is_onnx: bool, tiny_realtime: Path, tmp_path: Path
) -> None:
    """So is the ONNX file that it is built of, whatever the source."""
    source = tiny_realtime
    if is_onnx:
        source = tmp_path / "net.onnx"
        export_onnx(tiny_realtime, source)
        shutil.copy(tiny_realtime, tmp_path)
    profile = Profile(smallest=Size(8, 8), optimal=Size(20, 30), largest=Size(40, 44))
    plan = EnginePlan(
        source=source, output=tmp_path / "net.engine", targets=("sm86",), profile=profile
    )
    parity = build(plan).parity
    assert parity is not None
    assert {Size(20, 30), Size(40, 44)} <= {row.size for row in parity.rows}


def test_a_size_outside_of_a_profile_is_refused(tiny_realtime: Path) -> None:
    profile = Profile(smallest=Size(8, 8), optimal=Size(20, 30), largest=Size(40, 44))
    engine = EngineFile(path=Path("net.engine"), data=b"", manifest=Mock())
    runner = build_reference(load_network(tiny_realtime)).runner("float32")
    candidate = Candidate(name="net.engine", runner=runner, precision=Precision.FP32)
    opened = OpenedArtifact(artifact=engine, candidate=candidate, profile=profile)
    opened.check(Size(40, 8))
    with pytest.raises(PlanError, match="accepts 8x8 to 40x44, not 41x8"):
        opened.check(Size(41, 8))
    assert opened.large_sizes() == [Size(20, 30), Size(40, 44)]


def test_glyphs_have_no_size(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "glyph.pt", SMALL_GRIDS)
    with pytest.raises(PlanError, match="--at is for networks that take images"):
        export_onnx(checkpoint, tmp_path / "glyph.onnx", at=["40x44"])


def test_a_size_fits_into_memory(tmp_path: Path) -> None:
    """Windows of 32x32 pixels every 24 pixels: at least 1024 scores for each pixel."""
    found = Parts(loaded("v5_nano_x2_24x20", tmp_path))
    assert found.cost.values >= 1024
    assert found.most_pixels * found.cost.values <= parts.MAX_VALUES
    assert found.most_pixels < 1080 * 1920
