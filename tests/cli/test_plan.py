"""``plan``: kernels are counted and estimated, and nothing is written."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from paragon_export.assets import CHECKPOINT
from paragon_export.engines.kernels.estimate import Estimate
from paragon_export.engines.manifest import manifest_bytes, manifest_path, read, sealed
from paragon_export.pipeline.build import build_engine
from paragon_export.reports.plots.kernels import BAR, kernel_plot
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Size
from tests.conftest import RunHere

SVG = "{http://www.w3.org/2000/svg}"


def test_a_checkpoint_is_planned(run_here: RunHere, tmp_path: Path) -> None:
    """A faster card is estimated faster, and a size with more pixels moves more bytes."""
    sizes = ("--size", "64x96", "--size", "128x96")
    done = run_here(
        "plan", CHECKPOINT, "--fp16", *sizes, "--card", "3060", "--card", "3090", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    plans = document["plans"]

    assert document["basis"] == "estimated from the compiled kernels, not run"
    assert [(one["size"], one["card"]) for one in plans] == [
        ("64x96", "RTX 3060"), ("64x96", "RTX 3090"),
        ("128x96", "RTX 3060"), ("128x96", "RTX 3090"),
    ]  # fmt: skip
    assert plans[1]["estimated_ms"] < plans[0]["estimated_ms"]
    assert plans[2]["bytes_written"] > 1.5 * plans[0]["bytes_written"]
    assert sum(plans[0]["estimated_ms_by_group"].values()) == pytest.approx(
        plans[0]["estimated_ms"]
    )
    assert plans[0]["kernels_of_unknown_flops"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((CHECKPOINT, "--card", "1080"), "use one of RTX 2060"),
        (("no.engine",), "no.engine"),
        ((CHECKPOINT, "--size", "big"), "HEIGHTxWIDTH"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    run_here: RunHere, arguments: tuple[str, ...], said: str
) -> None:
    done = run_here("plan", *arguments)

    assert (done.code, done.stdout) == (3, "")
    assert said in done.stderr


# --- engines ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_realtime: Path) -> Path:
    engine = tmp_path_factory.mktemp("original") / "e.engine"
    profile = Profile(smallest=Size(1, 1), optimal=Size(24, 40), largest=Size(64, 64))
    assert build_engine(tiny_realtime, engine, targets=["sm86"], profile=profile).passed
    return engine


@pytest.fixture
def engine(original: Path, tmp_path: Path) -> Path:
    """Return a copy of an engine for sm86, with its manifest and ONNX file."""
    shutil.copytree(original.parent, tmp_path / "copy")
    return tmp_path / "copy" / original.name


def edit(engine: Path, **changes: object) -> None:
    document = {**(read(engine) or {}), **changes}
    manifest_path(engine).write_bytes(manifest_bytes(sealed(document, engine.read_bytes())))


def test_an_engine_is_planned_from_its_onnx_file(run_here: RunHere, engine: Path) -> None:
    """At the size that it is tuned for, on the cards of its target, with the list of kernels."""
    plans = json.loads(run_here("plan", engine, "--json").stdout)["plans"]
    other = json.loads(
        run_here("plan", engine, "--size", "48x40", "--card", "4090", "--json").stdout
    )

    assert [(one["size"], one["card"]) for one in plans] == [
        ("24x40", "RTX 3060"), ("24x40", "RTX 3090"),
    ]  # fmt: skip
    assert len(plans[0]["kernels"]) == plans[0]["launches"]
    assert [(one["size"], one["card"]) for one in other["plans"]] == [("48x40", "RTX 4090")]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--size", "64x64", "--card", "3060"), ""),
        (("--size", "64x65", "--card", "3060"), "accepts 1x1 to 64x64, not 64x65: the plan is of"),
        (("--size", "65x64", "--card", "3090"), "accepts 1x1 to 64x64, not 65x64"),
        (("--card", "4090"), "is for sm86, not the sm89 of the RTX 4090"),
        (
            ("--size", "99x9", "--card", "4060"),
            "99x9; it is for sm86, not the sm89 of the RTX 4060",
        ),
    ],
)
def test_what_an_engine_is_not_for_is_said(
    run_here: RunHere, engine: Path, given: tuple[str, ...], said: str
) -> None:
    """Its ONNX file is planned anyway."""
    done = run_here("plan", engine, *given, "--json")
    notes = json.loads(done.stdout)["notes"]

    assert len(notes) == (1 if said else 0)
    assert said in done.stderr
    assert said in "".join(notes)


@pytest.fixture
def limited_memory() -> Iterator[None]:
    """Allow this process 48 GiB of addresses, whatever the machine has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (48 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("limited_memory")
def test_a_checkpoint_that_cannot_be_compiled_is_named(run_here: RunHere, tmp_path: Path) -> None:
    """A map of 16 channels in float32 takes 16 GiB, and TensorRT asks for 64."""
    done = run_here("plan", CHECKPOINT, "--size", "16384x16384", "--card", "3060")

    assert (done.code, done.stderr.count("\n")) == (3, 1)
    assert f"TensorRT cannot build {CHECKPOINT} at 16384x16384 for sm86: " in done.stderr


def test_a_height_of_one_is_planned(run_here: RunHere) -> None:
    assert run_here("plan", CHECKPOINT, "--size", "1x8", "--card", "3060").code == 0


@pytest.mark.parametrize("is_gone", [True, False])
def test_an_engine_is_planned_from_its_manifest(
    run_here: RunHere, engine: Path, is_gone: bool
) -> None:
    """Where its ONNX file is gone or another, the sums of the manifest are shown."""
    before = json.loads(run_here("plan", engine, "--card", "3090", "--json").stdout)["plans"][0]
    onnx = engine.with_name("e.engine.onnx")
    if is_gone:
        onnx.unlink()
    else:
        onnx.write_bytes(onnx.read_bytes() + b"\x0a\x00")
    (after,) = json.loads(run_here("plan", engine, "--card", "3090", "--json").stdout)["plans"]

    assert after == {**before, "kernels": []}
    shown = run_here("plan", engine).stdout
    assert "not run" in shown
    assert "the sums in its manifest" in shown


@pytest.mark.parametrize(
    ("changes", "arguments", "said"),
    [
        ({}, ("--size", "48x40"), "has estimates at 24x40 for RTX 3060, RTX 3090 only; give the"),
        ({}, ("--card", "4090"), "has estimates at 24x40 for RTX 3060, RTX 3090 only; give the"),
        ({"kernels": None}, (), "has no estimates; give the ONNX file"),
        ({"backend": "tensorrt"}, (), "full TensorRT"),
        ({}, ("--fp16",), "need a checkpoint"),
    ],
)
def test_an_engine_that_tells_too_little_is_refused(
    run_here: RunHere,
    engine: Path,
    changes: dict[str, object],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    """One line says what is missing and what to give."""
    engine.with_name("e.engine.onnx").unlink()
    edit(engine, **changes)
    done = run_here("plan", engine, *arguments)

    assert (done.code, done.stdout) == (3, "")
    assert said in done.stderr


def test_an_engine_of_another_manifest_is_refused(run_here: RunHere, engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[::-1])
    done = run_here("plan", engine)

    assert done.code == 3
    assert "no manifest that matches its bytes" in done.stderr


# --- plots -----------------------------------------------------------------------------------


def test_a_plot_has_a_bar_for_each_size_and_card(run_here: RunHere, tmp_path: Path) -> None:
    """The parts of a bar are as long as the estimates by group, on the scale of the axis."""
    args = ("--size", "64x96", "--size", "128x96", "--card", "3060", "--card", "3090")
    files = ("--plot", tmp_path / "p.svg", "--html", "p.html", "--markdown", "p.md")
    done = run_here("plan", CHECKPOINT, *args, *files, "--json")
    plans = json.loads(done.stdout)["plans"]
    picture = ElementTree.parse(tmp_path / "p.svg")
    texts = [text.text or "" for text in picture.iter(SVG + "text")]
    bars: dict[str, float] = {}
    for part in picture.iter(SVG + "rect"):
        if part.get("height") == str(BAR):
            bars[part.get("y", "")] = bars.get(part.get("y", ""), 0) + float(part.get("width", 0))
    lengths = [width / one["estimated_ms"] for width, one in zip(bars.values(), plans, strict=True)]

    for one in plans:
        assert f"{one['size']}, {one['card']}" in texts
        assert f"{one['estimated_ms']:.3g} ms" in texts
    assert lengths == pytest.approx([lengths[0]] * 4, rel=1e-2)
    assert any("estimated from the compiled kernels, not run" in text for text in texts)
    assert any("milliseconds" in text for text in texts)
    assert (tmp_path / "p.svg").read_text("utf-8") in (tmp_path / "p.html").read_text("utf-8")
    assert "paragon-export plan: estimated" in (tmp_path / "p.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("output", "said"), [("gone/p.svg", "does not exist"), ("p.png", ".svg"), (".", ".svg")]
)
def test_a_plot_that_cannot_be_written_is_refused_before_compiling(
    run_here: RunHere, monkeypatch: pytest.MonkeyPatch, output: str, said: str
) -> None:
    monkeypatch.setattr("paragon_export.pipeline.kernel_plan.plan_kernels", None)
    done = run_here("plan", CHECKPOINT, "--plot", output)

    assert (done.code, done.stdout) == (3, "")
    assert said in done.stderr


def test_names_of_a_plot_are_text_alone() -> None:
    """Neither a file's name nor a card of a manifest becomes an element of the picture."""
    estimate = Estimate(
        size=Size(8, 8), card="<script>", target="sm86", launches=1, streams=1, bytes_read=0,
        bytes_written=0, flops=0, kernels_of_unknown_flops=0, estimated_ms_by_group={"<a>": 0.0},
    )  # fmt: skip
    picture = ElementTree.fromstring(kernel_plot([estimate], "<b>&.onnx" + "x" * 99))
    kinds = {element.tag.removeprefix(SVG) for element in picture.iter()}

    assert kinds <= {"svg", "rect", "title", "text", "line"}
    assert next(text.text for text in picture.iter(SVG + "text")).startswith(
        "Estimated time of <b>&.onnxxx"
    )
