"""The yardstick: PyTorch's own error, in two roundings, and the mean over all images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paragon_export.inputs.glyph_probes import glyph_probes
from paragon_export.inputs.play import nudged, play
from paragon_export.inputs.probes import still_probes
from paragon_export.parity import compare, truth
from paragon_export.parity.acceptance import default_criteria
from paragon_export.parity.candidates import Candidate
from paragon_export.parity.compare import verify
from paragon_export.parity.metrics import Difference, difference
from paragon_export.parity.parts import Part
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import ParityReport, ParityRow
from paragon_export.parity.yardstick import FAR_OFF, LEAST_RATIO, Yardstick, in_doubt, with_overall
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.glyph import SMALL, reference_of, small_checkpoint
from paragon_export.testing.sabotage.case import case_of

OWN = Difference(1e-2, 60.0, 1e-2, 1e-2, True, False, rms=1e-3, high=4e-3)


def row(rms: float, output: str = "output", candidate: str = "c") -> ParityRow:
    return ParityRow(
        candidate=candidate,
        precision=Precision.FP16,
        output=output,
        picture="p",
        size=Size(9, 9),
        batch=1,
        found=replace(OWN, rms=rms),
        reference_max_abs=OWN.max_abs,
        reference_errors=OWN,
        criteria=default_criteria(Precision.FP16),
    )


@pytest.mark.parametrize("precision", list(Precision))
def test_it_is_the_worse_of_two_roundings(precision: Precision, tiny_realtime: Path) -> None:
    """No measure is below that of PyTorch as it is, and the second run differs from the first."""
    reference = case_of(tiny_realtime, upsampler_alpha=0.3).reference
    (probe, *_) = still_probes(3, [(Size(17, 33), 1)])
    exact = play(reference.runner("float64"), probe, reference.inputs)
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision.value]
    nudge, moved = (1, probe) if precision.is_half else (0, nudged(probe))
    plain = play(reference.runner(dtype), probe, reference.inputs)["output"]
    other = play(reference.runner(dtype, nudge=nudge), moved, reference.inputs)["output"]
    first, second = (difference(result, exact["output"], 0) for result in (plain, other))
    assert first != second
    worse = Yardstick(reference, precision).errors(Part(whole=probe, probe=probe), exact)["output"]
    for name in ("max_abs", "rms", "high"):
        assert getattr(worse, name) == max(getattr(first, name), getattr(second, name))
    assert worse.psnr_db == min(first.psnr_db, second.psnr_db)
    assert worse.rms < 1.5 * first.rms


def test_the_mean_is_geometric_and_of_one_output_of_one_candidate() -> None:
    """Each row gets the mean of its own group, and their number."""
    rows = with_overall(
        [row(1e-3), row(2e-3), row(1.5e-3, "feature_map"), row(3e-3, candidate="d")]
    )
    means = [(r.overall.rms if r.overall else None, r.images) for r in rows]
    assert means[0] == means[1] == (pytest.approx(math.sqrt(2)), 2)
    assert means[2] == (pytest.approx(1.5), 1)
    assert means[3] == (pytest.approx(3.0), 1)
    assert {r.overall.max_abs for r in rows if r.overall} == {1.0}


def test_an_image_without_any_error_makes_up_for_no_other() -> None:
    (first, _) = with_overall([row(0.0), row(2e-3)])
    assert first.overall is not None
    assert first.overall.rms == pytest.approx(math.sqrt(LEAST_RATIO * 2))


@pytest.mark.parametrize(("images", "times"), [(1, 4.0), (4, 2.5), (16, 2.0), (99, 2.0)])
def test_no_error_is_far_beyond_pytorchs_largest_on_any_image(images: int, times: float) -> None:
    """The more images there are, the less the largest of PyTorch's errors is a matter of luck."""
    quiet = replace(row(1e-3), reference_max_abs=6e-3)
    loud = replace(quiet, reference_max_abs=1e-2)
    rows = with_overall([loud, *[quiet] * (images - 1)])
    assert {(r.images, r.largest_own) for r in rows} == {(images, 1e-2)}
    limit = min(4 * rows[-1].reference_max_abs, times * 1e-2)
    assert rows[-1].limit == pytest.approx(limit)
    scaled = with_overall([replace(r, full_range=1e3) for r in (loud, *[quiet] * (images - 1))])
    assert scaled[-1].largest_own == 1e-5


def test_a_small_error_on_all_images_fails_where_one_image_passes() -> None:
    """Half more than PyTorch's error is luck on one image, and none on a dozen."""
    assert [r.failure for r in with_overall([row(1.5e-3)])] == [""]
    assert {r.failure for r in with_overall([row(1.5e-3)] * 12)} == {"mean error over all"}


# --- other roundings of the weights -----------------------------------------------------------


class NearlyCancelling(nn.Module):
    """Products that nearly cancel, and a gain: a few weights make up most of the error.

    The weights are near half values, so that PyTorch errs little. With the gain folded into them,
    as in an export, they are not.
    """

    def __init__(self, *, folded: bool = False, wrong: float = 0.0) -> None:
        super().__init__()
        pairs = torch.tensor([[3.0, -2.5], [2.75, -3.125], [3.25, -2.875]]) * (1 + 2.0**-15)
        gain = torch.tensor(0.83)
        self.pairs = nn.Parameter(pairs * gain if folded else pairs)
        self.gain = None if folded else nn.Parameter(gain)
        self.pairs.data[0, 0] += wrong

    def forward(self, x: Tensor) -> Tensor:
        """Return pictures of twice the size, or three logits for each grid of IDs."""
        is_picture = x.is_floating_point()
        if not is_picture:
            means = (x % 8).to(self.pairs.dtype).mean((1, 2))
            x = means[:, None, None, None].expand(-1, 3, 1, 1)
        y = functional.conv2d(x.repeat_interleave(2, 1), self.pairs[..., None, None], groups=3)
        y = y if self.gain is None else y * self.gain
        return functional.interpolate(y, scale_factor=2.0) if is_picture else y.flatten(1)


def judged_folded(reference: TorchReference, precision: Precision, wrong: float) -> ParityReport:
    """Judge half precision with the gain folded into the weights."""
    reference = TorchReference(
        network=reference.network,
        module=NearlyCancelling(),
        inputs=reference.inputs,
        outputs=reference.outputs,
    )
    exported = replace(reference, module=NearlyCancelling(folded=True, wrong=wrong))
    runner = exported.runner("float16" if precision is Precision.FP16 else "bfloat16")
    is_classifier = reference.input_spec.task.is_classifier
    sizes = [(Size(17, 33), 1), (Size(9, 12), 3)]
    probes = glyph_probes(reference.inputs[0]) if is_classifier else still_probes(3, sizes)
    candidate = Candidate(name="folded", runner=runner, precision=precision)
    return verify(reference, [candidate], probes)


@pytest.fixture(params=["pictures", "logits"])
def shaped(request: pytest.FixtureRequest, tiny_realtime: Path, tmp_path: Path) -> TorchReference:
    if request.param == "logits":
        return reference_of(small_checkpoint(tmp_path / "glyph.pt", SMALL))
    return case_of(tiny_realtime, upsampler_alpha=0.3).reference


HALVES = (Precision.FP16, Precision.BF16)


@pytest.mark.parametrize("precision", HALVES)
def test_weights_that_are_rounded_otherwise_pass(
    precision: Precision, shaped: TorchReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's weights happen to need hardly any rounding, the export's need it."""
    report = judged_folded(shaped, precision, wrong=0.0)
    assert report.passed, [row.failure for row in report.rows]
    for module in (truth, compare):
        monkeypatch.setattr(module, "in_doubt", lambda rows: set())
    assert not judged_folded(shaped, precision, wrong=0.0).passed


@pytest.mark.parametrize("precision", HALVES)
def test_a_weight_that_is_off_by_more_than_roundings_fails(
    precision: Precision, shaped: TorchReference
) -> None:
    rounding = 2.0 ** (-10 if precision is Precision.FP16 else -7)
    assert not judged_folded(shaped, precision, wrong=16 * rounding).passed


def test_what_fails_for_another_reason_needs_no_other_roundings() -> None:
    """Nor does what passes, or is far off."""
    fails, broken = replace(row(9e-3), candidate="a"), replace(row(9e-3), candidate="b")
    far = row((FAR_OFF + 1) * OWN.rms, candidate="d")
    missing = replace(broken, fault="output missing")
    infinite = replace(broken, candidate="c", found=replace(OWN, is_finite=False))
    assert in_doubt([fails, broken, missing, infinite, far, row(1e-3)]) == {"a"}
