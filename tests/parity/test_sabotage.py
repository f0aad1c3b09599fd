"""The suite of sabotage: every way of being wrong is seen, and called by its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from paragon_export.errors import RunError
from paragon_export.inputs.probes import still_probes
from paragon_export.parity.candidates import open_candidate, read_artifact
from paragon_export.parity.check import judge
from paragon_export.parity.compare import verify
from paragon_export.parity.diagnosis.diagnose import Subject, diagnose
from paragon_export.parity.diagnosis.symptoms import Scene, symptom_of
from paragon_export.parity.report import ParityReport
from paragon_export.reports.junit import junit
from paragon_export.runtimes.base import Runner
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.glyph import small_checkpoint
from paragon_export.testing.sabotage.case import Break, Case, case_of
from paragon_export.testing.sabotage.edits import on_and_off, weight, with_attribute
from paragon_export.testing.sabotage.networks import another
from paragon_export.testing.sabotage.pieces import behind, joined, real, reverse, whole
from paragon_export.testing.sabotage.suite import SUITE, Sabotage, subjects, written
from tests.conftest import RunHere

pytestmark = pytest.mark.usefixtures("foreign_files_here", "sizes_around")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="module")
def glyph_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(small_checkpoint(tmp_path_factory.mktemp("glyph") / "phase2.pt"))


def _on_logits(body: str) -> Break:
    return lambda case: joined(case.model, body, "y", "output", "float[batch,classes]")


def verdict(case: Case, *files: Path) -> ParityReport:
    """Judge files as the parity command does."""
    artifacts = [read_artifact(file) for file in files]
    return judge(case.reference, artifacts, possible=lambda: case.alternatives)


@pytest.mark.parametrize("sabotage", SUITE, ids=lambda s: s.what)
def test_sabotage_is_caught_and_named(
    sabotage: Sabotage, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases[sabotage.subject]
    report = verdict(case, written(sabotage, case, tmp_path / "wrong.onnx"))
    assert not report.passed
    named = {finding.output: finding.symptom for finding in report.findings}
    assert named["output"] == sabotage.looks_like


@pytest.mark.parametrize("subject", ["realtime", "photo", "four times", "video"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_good_ones_pass_and_are_called_nothing(
    subject: str, precision: Precision, cases: dict[str, Case], tmp_path: Path
) -> None:
    """Each graph that is sabotaged passes as it is."""
    case = cases[subject]
    untouched = Sabotage("nothing", "", lambda case: case.model, subject, precision)
    report = verdict(case, written(untouched, case, tmp_path / "good.onnx"))
    assert report.passed
    assert report.findings == ()


def test_there_are_enough_and_each_name_is_earned() -> None:
    assert len({sabotage.what for sabotage in SUITE}) == len(SUITE) >= 30
    assert len({sabotage.looks_like for sabotage in SUITE}) >= 20


def test_the_report_says_what_it_looks_like(
    cases: dict[str, Case], tmp_path: Path, run_here: RunHere
) -> None:
    """On the terminal, in JSON and in JUnit; of several files each has its own."""
    case = cases["realtime"]
    shift = next(s for s in SUITE if s.looks_like == "shift")
    grey = next(s for s in SUITE if s.looks_like == "grey")
    files = [
        written(shift, case, tmp_path / "shift.onnx"),
        written(grey, case, tmp_path / "grey.onnx"),
    ]
    given = ("parity", case.checkpoint.path, *files, "--upsampler-alpha", "0", "--sizes", "20x30")
    shown = run_here(*given)
    assert shown.code == 1
    assert "shift.onnx: output looks like shift (0 down, 1 to the right)" in shown.stdout
    document = json.loads(run_here(*given, "--json").stdout)
    assert [(f["candidate"], f["symptom"]) for f in document["looks_like"]] == [
        ("shift.onnx", "shift"),
        ("grey.onnx", "grey"),
    ]
    assert "looks like: grey" in junit(verdict(case, *files))


BRIGHT = whole(two=[2]) + (
    "shape = Shape(y) place = Div(shape, two) zero = Constant<value_ints = [0]>() "
    "index = Unsqueeze(place, zero) value = Constant<value_floats = [2.0]>() "
    "output = ScatterND(y, index, value)"
)
"""A pixel in the middle."""


def bilinear(case: Case) -> ir.Model:
    """The base upsampled bilinearly."""
    placed = with_attribute("Resize", "coordinate_transformation_mode", "half_pixel")
    return with_attribute("Resize", "mode", "linear")(replace(case, model=placed(case)))


MORE = [
    Sabotage("one bright pixel", "spots", behind(BRIGHT)),
    Sabotage("alpha is on or off", "alpha not followed", on_and_off, "video"),
    Sabotage("another upsampling of the base", "another interpolation", bilinear),
]


@pytest.mark.parametrize("sabotage", MORE, ids=lambda s: s.what)
def test_rarer_names(sabotage: Sabotage, cases: dict[str, Case], tmp_path: Path) -> None:
    test_sabotage_is_caught_and_named(sabotage, cases, tmp_path)


GLYPH_BREAKS: dict[str, tuple[Break, str]] = {
    "another activation": (another(activation="relu"), "another switch"),
    "not normalised": (another(normalize_embeddings=True), "another switch"),
    "biased": (_on_logits(real(b=0.5) + "output = Add(y, b)"), "offset"),
    "cooler": (_on_logits(real(t=0.5) + "output = Mul(y, t)"), "scaled"),
    "batch reversed": (_on_logits(reverse(0, "y", "output")), "batch mixed up"),
    "all zero": (_on_logits(real(no=0) + "output = Mul(y, no)"), "all zero"),
    "NaN": (_on_logits("nothing = Sub(y, y) output = Div(nothing, nothing)"), "NaN"),
}


@pytest.mark.parametrize(("make", "name"), GLYPH_BREAKS.values(), ids=GLYPH_BREAKS.keys())
def test_logits_are_named_too(make: Break, name: str, glyph_case: Case, tmp_path: Path) -> None:
    wrong = Sabotage(name, name, make)
    report = verdict(glyph_case, written(wrong, glyph_case, tmp_path / "wrong.onnx"))
    assert not report.passed
    assert [finding.symptom for finding in report.findings] == [name]


def test_a_diagnosis_that_fails_costs_no_verdict(cases: dict[str, Case], tmp_path: Path) -> None:
    """Where the file cannot be run in float32, what is wrong stays without a name."""
    overflow = next(s for s in SUITE if s.looks_like == "overflow")
    case = cases[overflow.subject]
    good = open_candidate(
        read_artifact(written(overflow, case, tmp_path / "wrong.onnx")),
        case.reference.inputs,
        case.reference.outputs,
    ).candidate

    def refuses() -> Runner:
        raise RunError("no such operator")

    candidate = replace(good, wide=refuses)
    probes = still_probes(3, [(Size(17, 33), 1)])
    rows = verify(case.reference, [candidate], probes).rows
    subject = Subject(candidate=candidate, reference=case.reference, probes=probes)
    (finding,) = diagnose(subject, rows)
    assert str(finding) == "not diagnosed (no such operator)"


def test_names_do_not_depend_on_luck(cases: dict[str, Case], tmp_path: Path) -> None:
    """An error that nothing explains is not given the name of something."""
    case = cases["realtime"]
    for seed in range(4):
        rng = np.random.default_rng(seed)

        def scramble(w: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            return w + 0.1 * w.std() * rng.standard_normal(w.shape)

        wrong = Sabotage("scrambled", "error everywhere", weight("conv_mid.weight", scramble))
        report = verdict(case, written(wrong, case, tmp_path / "wrong.onnx"))
        assert [finding.symptom for finding in report.findings] == ["error everywhere"]


@pytest.mark.parametrize("name", ["detail_gain", "conv_mid.weight", "conv_in.weight"])
def test_wrong_weights_of_a_half_file_are_no_rounding(
    name: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    """In float32 the file is as wrong as in half, though by less than 1 % of most pixels."""
    case = cases["realtime"]
    scaled = weight(name, lambda w: w * 1.01)
    wrong = Sabotage("scaled", "error everywhere", scaled, precision=Precision.FP16)
    report = verdict(case, written(wrong, case, tmp_path / "wrong.onnx"))
    assert not report.passed
    assert [finding.symptom for finding in report.findings] == ["error everywhere"]


def test_an_item_that_hardly_varies_is_not_called_constant() -> None:
    """The error is in the other item of the batch: all of it is brighter."""
    rng = np.random.default_rng(0)
    truth = np.stack([np.zeros((3, 8, 8)), rng.random((3, 8, 8))])
    truth[0, 0, 0, 0] = 1e-8
    found = truth + 0.1
    found[0] = 0
    assert symptom_of(Scene(found=found, truth=truth, limit=1e-6)).symptom == "contrast"
    found[0], truth[0, 0, 0, 0] = 0, 1e-3
    assert symptom_of(Scene(found=found, truth=truth, limit=1e-6)).symptom == "all zero"
