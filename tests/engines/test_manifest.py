"""Manifests: an engine says what it is, and is reused only while all of that holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest

import paragon_export
from paragon_export.engines.kernels.cards import cards_of
from paragon_export.engines.manifest import (
    EngineFile,
    digest_of,
    manifest_bytes,
    manifest_path,
    read,
    read_engine,
    sealed,
)
from paragon_export.engines.open import open_engine
from paragon_export.engines.reuse import (
    identify,
    read_existing,
    read_source,
    why_judge_again,
    why_rebuild,
)
from paragon_export.errors import EngineBuildError, ParagonExportError, PlanError
from paragon_export.parity.report import ParityReport
from paragon_export.pipeline import kernel_plan
from paragon_export.pipeline.build import build
from paragon_export.pipeline.export import export
from paragon_export.pipeline.kernel_plan import plan_kernels
from paragon_export.pipeline.results import BuildResult, Proof, Prover
from paragon_export.specs.plans import EnginePlan, ExportPlan, NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.system.atomic_write import sha256_of
from paragon_export.system.environment import cuda_gpu
from paragon_export.testing.tiny import tiny_checkpoint

pytestmark = pytest.mark.usefixtures("foreign_files_here", "same_engines_once")

PROFILE = Profile(smallest=Size(1, 1), optimal=Size(24, 40), largest=Size(64, 65))


@dataclass(frozen=True)
class Built:
    """An engine and everything beside it, and the plan that made it."""

    plan: EnginePlan
    result: BuildResult

    @property
    def engine(self) -> Path:
        return self.plan.output

    @property
    def onnx(self) -> Path:
        return self.engine.with_name(str(read(self.engine)["onnx"]))

    def why(self, **changes: Any) -> str:
        """Return why the engine would be rebuilt for the same plan with changes."""
        plan = replace(self.plan, **changes)
        source = read_source(plan)
        return why_rebuild(read_existing(self.engine), identify(plan, source), source)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return a float16 engine built from a checkpoint; tests work on copies."""
    folder = tmp_path_factory.mktemp("original")
    checkpoint = tiny_checkpoint(folder / "tiny.safetensors")
    plan = EnginePlan(
        source=checkpoint,
        output=folder / "tiny.engine",
        precision=Precision.FP16,
        targets=("sm86",),
        profile=PROFILE,
    )
    return Built(plan, build(plan))


@pytest.fixture
def built(original: Built, tmp_path: Path) -> Built:
    """Return a copy of the engine, its manifest, its ONNX file and its checkpoint."""
    folder = tmp_path / "copy"
    shutil.copytree(original.engine.parent, folder)
    plan = replace(
        original.plan,
        source=folder / original.plan.source.name,
        output=folder / original.engine.name,
    )
    return Built(plan, original.result)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit(engine: Path, **changes: Any) -> None:
    """Change entries of an engine's manifest, as another version would have written them."""
    seal(engine, {**json.loads(manifest_path(engine).read_text()), **changes})


def seal(engine: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest that names the engine's bytes and its own digest rightly."""
    manifest_path(engine).write_bytes(manifest_bytes(sealed(manifest, engine.read_bytes())))


def edit_by_hand(engine: Path, **changes: Any) -> None:
    """Change entries of an engine's manifest and nothing else."""
    path = manifest_path(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- what a manifest says ------------------------------------------------------------------


def test_first_build(original: Built) -> None:
    """A build leaves the engine, its manifest and its ONNX file, and says why it built."""
    result, engine = original.result, original.engine
    assert not result.cached
    assert result.reason == "no engine was there"
    assert result.passed is True
    assert {path.name for path in engine.parent.iterdir()} == {
        "tiny.safetensors", "tiny.engine", "tiny.engine.json", "tiny.engine.onnx",
    }  # fmt: skip


def test_manifest_says_what_the_engine_is(original: Built) -> None:
    """The manifest holds hashes, switches, profile, precision, target, versions and memory."""
    manifest = read(original.engine)
    assert manifest == original.result.manifest.to_document()
    assert manifest["source"] == "tiny.safetensors"
    checkpoint = sha256_of(original.plan.source)
    assert manifest["source_sha256"] == manifest["checkpoint_sha256"] == checkpoint
    assert manifest["onnx"] == "tiny.engine.onnx"
    assert manifest["onnx_sha256"] == sha256_of(original.onnx)
    assert manifest["engine"] == "tiny.engine"
    assert manifest["engine_sha256"] == sha256_of(original.engine)
    assert manifest["engine_bytes"] == original.engine.stat().st_size
    assert manifest["switches"]["upsampler_alpha"] == {"value": 0.3, "source": "default"}
    assert manifest["precision"] == "fp16"
    assert manifest["video"] is False
    assert manifest["profile"] == {"min": "1x1", "opt": "24x40", "max": "64x65", "batch": 1}
    assert manifest["target"] == "sm86"
    assert manifest["backend"] == "rtx"
    import tensorrt_rtx

    assert manifest["tensorrt"] == tensorrt_rtx.__version__
    assert manifest["paragon_export"] == paragon_export.__version__
    planned = manifest["planned_device_memory_bytes"]
    assert planned == manifest["planned_activation_bytes"] + manifest["planned_weights_bytes"] > 0
    assert manifest["tensorrt_warnings"] == []
    assert manifest["onnx_metadata"]["variant"] == "realtime"


def test_manifest_says_what_was_judged(original: Built) -> None:
    """The manifest tells that the ONNX file passed and that the engine has not run yet."""
    parity = read(original.engine)["parity"]
    assert parity["passed"] is True
    assert parity["seen_on_gpu"] is False
    assert "ONNX" in parity["judged"]
    assert parity["worst"]["max_abs"] <= parity["worst"]["limit"]


def test_manifest_estimates_the_time_of_the_engine(original: Built) -> None:
    """At the size that it is tuned for, for the cards of its target; the words say it was not run."""
    entry = read(original.engine)["kernels"]
    plans = plan_kernels(original.onnx, sizes=[PROFILE.optimal], cards=["3060", "3090"])

    assert entry["basis"] == "estimated from the compiled kernels, not run"
    assert entry["plans"] == [plan.estimate.to_document() for plan in plans]
    assert [(plan["size"], plan["card"]) for plan in entry["plans"]] == [
        ("24x40", "RTX 3060"), ("24x40", "RTX 3090"),
    ]  # fmt: skip
    assert entry["plans"][0]["estimated_ms"] > 0
    assert entry["plans"][0]["bytes_read"] > 0


def test_an_engine_without_a_target_is_estimated_for_ampere_and_later() -> None:
    assert {card.target for card in cards_of(())} == {"sm86", "sm89", "sm120"}


def test_a_list_that_is_not_understood_is_a_note(
    original: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is complete without its estimates."""

    def refuse(*_: Any) -> None:
        raise EngineBuildError("TensorRT's log has a novelty")

    monkeypatch.setattr(kernel_plan, "compile_kernels", refuse)
    result = build(replace(original.plan, output=tmp_path / "e.engine"))

    assert result.passed is True
    assert read(tmp_path / "e.engine")["kernels"] is None
    assert [note for note in result.notes if "not estimated: TensorRT's log has a novelty" in note]


def test_manifest_is_strict_json(original: Built) -> None:
    """The manifest is JSON without NaN or infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(manifest_path(original.engine).read_text(), parse_constant=refuse)


# --- reuse ---------------------------------------------------------------------------------


def test_reused_when_all_matches(built: Built) -> None:
    """A second build of the same plan reuses the engine without touching a file."""
    folder = built.engine.parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = build(built.plan)
    assert again.cached
    assert again.reason == "everything in the manifest matches"
    assert again.passed is True
    assert again.manifest.to_document() == read(built.engine)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


CHANGED_PLANS: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"targets": ("sm89",)}, "target changed from sm86 to sm89"),
    "targets": ({"targets": ("sm86", "sm89")}, "target changed from sm86 to sm86,sm89"),
    "no target": ({"targets": ()}, "target changed from sm86 to sm80 and later"),
    "profile": (
        {"profile": replace(PROFILE, largest=Size(64, 66))},
        "profile changed from {min 1x1, opt 24x40, max 64x65, batch 1} "
        "to {min 1x1, opt 24x40, max 64x66, batch 1}",
    ),
    "batch": ({"profile": replace(PROFILE, batch=2)}, "profile changed from"),
    "default profile": ({"profile": None}, "profile changed from"),
    "precision": ({"precision": Precision.BF16}, "precision changed from fp16 to bf16"),
    "switches": (
        {"options": NetworkOptions(flags={"upsampler_alpha": 0.1})},
        "switches changed from",
    ),
    "rewrite": ({"rewrite": False}, "rewrite changed from True to False"),
    "video": ({"video": True}, "video changed from False to True"),
}


@pytest.mark.parametrize(("changes", "words"), CHANGED_PLANS.values(), ids=CHANGED_PLANS.keys())
def test_another_plan_is_built_again(original: Built, changes: dict[str, Any], words: str) -> None:
    """A plan that differs in one thing is not served by the engine there, and the reason says so."""
    assert original.why() == ""
    assert original.why(**changes).startswith(words)


def remove_manifest(built: Built) -> None:
    manifest_path(built.engine).unlink()


def garble_manifest(built: Built) -> None:
    manifest_path(built.engine).write_text("{not JSON")


def list_as_manifest(built: Built) -> None:
    manifest_path(built.engine).write_text("[]")


DAMAGES: dict[str, tuple[Callable[[Built], object], str]] = {
    "engine gone": (lambda b: b.engine.unlink(), "no engine was there"),
    "engine byte": (lambda b: flip_a_byte(b.engine), "the engine's bytes are not those"),
    "engine cut": (lambda b: b.engine.write_bytes(b""), "the engine's bytes are not those"),
    "ONNX gone": (lambda b: b.onnx.unlink(), "the ONNX file it was compiled from"),
    "ONNX byte": (lambda b: flip_a_byte(b.onnx), "the ONNX file it was compiled from"),
    "manifest gone": (remove_manifest, "the engine there has no readable manifest"),
    "manifest garbled": (garble_manifest, "the engine there has no readable manifest"),
    "manifest a list": (list_as_manifest, "the engine there has no readable manifest"),
    "checkpoint bytes": (
        lambda b: tiny_checkpoint(b.plan.source, seed=5),
        "source sha256 changed from",
    ),
    "TensorRT": (lambda b: edit(b.engine, tensorrt="1.0.0"), "tensorrt changed from 1.0.0 to"),
    "tool": (lambda b: edit(b.engine, paragon_export="0"), "paragon export changed from 0 to"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_built_again(built: Built, damage: Callable[[Built], object], words: str) -> None:
    """An engine of which anything was changed is not reused, and the reason says what."""
    assert built.why() == ""
    damage(built)
    assert built.why().startswith(words)


def test_rebuild_mends(built: Built) -> None:
    """A rebuild says why, leaves an engine that matches its manifest, and is then reused."""
    flip_a_byte(built.engine)
    again = build(built.plan)
    assert not again.cached
    assert again.reason == "the engine's bytes are not those of its manifest"
    assert read(built.engine)["engine_sha256"] == sha256_of(built.engine)
    assert build(built.plan).cached


def test_rebuild_for_another_target(built: Built) -> None:
    """Another target at the same place replaces the engine and its manifest."""
    plan = replace(built.plan, targets=("sm75", "sm120"))
    again = build(plan)
    assert not again.cached
    assert again.reason == "target changed from sm86 to sm75,sm120"
    assert read(built.engine)["target"] == "sm75,sm120"
    assert built.why().startswith("target changed from sm75,sm120")


def test_failed_build_loses_nothing(built: Built) -> None:
    """When TensorRT refuses a build, the engine that was there and its files still serve."""
    before = {path.name: path.read_bytes() for path in built.engine.parent.iterdir()}
    with pytest.raises(EngineBuildError, match="sm75"):
        build(replace(built.plan, targets=("sm75",), precision=Precision.BF16))
    after = {path.name: path.read_bytes() for path in built.engine.parent.iterdir()}
    assert [name for name in before if after.get(name) != before[name]] == []
    assert build(built.plan).cached


def test_changed_engine_is_never_loaded(built: Built) -> None:
    """An engine is code: one whose bytes are not those of its manifest is not loaded."""
    flip_a_byte(built.engine)
    with pytest.raises(PlanError, match="no manifest that matches its bytes"):
        open_engine(built.engine)
    manifest_path(built.engine).unlink()
    with pytest.raises(PlanError, match="no manifest that matches its bytes"):
        open_engine(built.engine)


EDITED = "the manifest there was changed after it was written"


def without(built: Built, name: str) -> None:
    path = manifest_path(built.engine)
    path.write_text(json.dumps({k: v for k, v in read(built.engine).items() if k != name}))


def a_verdict(built: Built) -> dict[str, Any]:
    """Return the entry of the verdict, turned round."""
    parity = read(built.engine)["parity"]
    return {**parity, "passed": not parity["passed"]}


HAND_EDITS: dict[str, tuple[Callable[[Built], object], str]] = {
    "verdict": (lambda b: edit_by_hand(b.engine, parity=a_verdict(b)), EDITED),
    "seen on a GPU": (
        lambda b: edit_by_hand(b.engine, parity={**read(b.engine)["parity"], "seen_on_gpu": True}),
        EDITED,
    ),
    "memory": (lambda b: edit_by_hand(b.engine, planned_device_memory_bytes=1), EDITED),
    "an entry more": (lambda b: edit_by_hand(b.engine, extra="said so"), EDITED),
    "an entry gone": (lambda b: without(b, "tensorrt_warnings"), EDITED),
    "profile gone": (lambda b: without(b, "profile"), EDITED),
    "digest gone": (lambda b: without(b, "manifest_sha256"), EDITED),
    "digest of no text": (lambda b: edit_by_hand(b.engine, manifest_sha256=None), EDITED),
    "NaN": (
        lambda b: manifest_path(b.engine).write_text('{"engine_bytes": NaN}'),
        "the engine there has no readable manifest",
    ),
    "nested without end": (
        lambda b: manifest_path(b.engine).write_text("[" * 200_000),
        "the engine there has no readable manifest",
    ),
}


@pytest.mark.parametrize(("change", "words"), HAND_EDITS.values(), ids=HAND_EDITS.keys())
def test_an_edited_manifest_is_not_believed(
    built: Built, change: Callable[[Built], object], words: str
) -> None:
    """Whatever is edited, left out or put in by hand: the engine is neither reused nor opened."""
    assert built.why() == ""
    change(built)
    assert built.why().startswith(words)
    with pytest.raises(PlanError, match="no manifest that matches"):
        open_engine(built.engine)


def test_a_manifest_of_an_older_version_has_no_estimates(built: Built) -> None:
    """It is read, and its engine is reused."""
    manifest = json.loads(manifest_path(built.engine).read_text())
    del manifest["kernels"]
    seal(built.engine, manifest)

    assert read_engine(built.engine).manifest.kernels == ()
    assert build(built.plan).cached


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"launches": 2.5}, "launches of the kernels is 2.5"),
        ({"flops": True}, "flops of the kernels is True"),
        ({"card": None}, "card of the kernels is None"),
        ({"size": "large"}, "HEIGHTxWIDTH"),
        ({"estimated_ms_by_group": {"copy": "long"}}, "milliseconds"),
        ({"estimated_ms_by_group": {"copy": -1}}, "milliseconds"),
    ],
)
def test_wrong_estimates_are_refused(built: Built, change: dict[str, Any], words: str) -> None:
    entry = read(built.engine)["kernels"]
    edit(built.engine, kernels={**entry, "plans": [{**entry["plans"][0], **change}]})

    with pytest.raises(PlanError, match=words):
        read_engine(built.engine)


def test_formatting_is_no_edit(built: Built) -> None:
    """What counts is what a manifest says, not how it is laid out."""
    edit_by_hand(built.engine)
    assert built.why() == ""


def test_a_failed_verdict_turned_by_hand_is_judged_again(built: Built) -> None:
    """False made true by hand is not believed: the engine is built and judged anew."""
    edit(built.engine, parity={**read(built.engine)["parity"], "passed": False})
    assert (
        why_judge_again(read_existing(built.plan.output), built.plan)
        == "its manifest says that the verdict failed"
    )
    edit_by_hand(built.engine, parity={**read(built.engine)["parity"], "passed": True})
    assert built.why().startswith(EDITED)
    again = build(built.plan)
    assert (again.cached, again.passed) == (False, True)
    assert read(built.engine)["manifest_sha256"] == digest_of(read(built.engine))


def test_a_manifest_with_a_right_digest_and_too_little_in_it_is_one_line(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest can be made by anybody: what is missing behind it is told, not stumbled over."""
    monkeypatch.setattr("paragon_export.engines.build.cuda_gpu", lambda: "a GPU")
    told = read(built.engine)
    for missing in ("precision", "backend", "profile"):
        seal(built.engine, {k: v for k, v in told.items() if k != missing})
        with pytest.raises(PlanError, match="is damaged"):
            open_engine(built.engine)


# --- from ONNX files -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a checkpoint, and in another folder ONNX files made from it."""
    trained, folder = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("exports")
    files = {"checkpoint": tiny_checkpoint(trained / "trained.safetensors")}
    kinds: dict[str, dict[str, Any]] = {
        "float32": {},
        "float16": {"precision": Precision.FP16},
        "static": {"static": Size(20, 12)},
        "video": {"video": True},
    }
    for name, options in kinds.items():
        files[name] = folder / f"{name}.onnx"
        plan = ExportPlan(checkpoint=files["checkpoint"], output=files[name], **options)
        assert export(plan).parity.passed
    return files


@pytest.fixture(scope="module")
def opset_22(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a float32 export of the same checkpoint that may become bfloat16."""
    path = tmp_path_factory.mktemp("opset") / "source.onnx"
    assert export(ExportPlan(checkpoint=exports["checkpoint"], output=path, opset=22)).passed
    return path


def from_onnx(exports: dict[str, Path], kind: str, folder: Path, **options: Any) -> EnginePlan:
    """Return a plan to build from an ONNX file that lies in another folder, its checkpoint too."""
    options = {"targets": ("sm86",), "profile": PROFILE, **options}
    return EnginePlan(source=exports[kind], output=folder / "model.engine", **options)


def test_onnx_is_reused(exports: dict[str, Path], tmp_path: Path) -> None:
    """An engine built from an ONNX file in another folder is reused too."""
    plan = from_onnx(exports, "float32", tmp_path)
    first = build(plan)
    assert (first.cached, first.passed) == (False, None)
    assert any("give --checkpoint" in note for note in first.notes)
    assert first.manifest.onnx_sha256 == sha256_of(exports["float32"])
    second = build(plan)
    assert second.reason == "everything in the manifest matches"
    assert second.cached


def test_converted_onnx_is_judged_and_reused(exports: dict[str, Path], tmp_path: Path) -> None:
    """A float32 ONNX file built in half precision is judged against itself, and then reused."""
    plan = from_onnx(exports, "float32", tmp_path, precision=Precision.FP16)
    first = build(plan)
    assert first.passed is True
    assert first.manifest.precision == "fp16"
    assert first.manifest.checkpoint_sha256 == sha256_of(exports["checkpoint"])
    assert build(plan).cached


def test_bf16_of_an_old_operator_set_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    """Before operator set 22 a convolution cannot be bfloat16: the way out is named."""
    plan = from_onnx(exports, "float32", tmp_path, precision=Precision.BF16)
    with pytest.raises(PlanError, match="--opset 22"):
        build(plan)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "precision",
    [Precision.FP32, Precision.FP16, pytest.param(Precision.BF16, marks=pytest.mark.slow)],
)
def test_onnx_is_judged_against_its_checkpoint(
    exports: dict[str, Path], opset_22: Path, tmp_path: Path, precision: Precision
) -> None:
    """An ONNX file is judged against a checkpoint that is named, in the precision asked for."""
    plan = EnginePlan(
        source=opset_22,
        output=tmp_path / "model.engine",
        profile=PROFILE,
        precision=precision,
        checkpoint=exports["checkpoint"],
    )
    result = build(plan)
    assert result.passed is True
    assert {row.precision for row in result.parity.rows} == {precision}
    if precision.is_half:
        compiled = tmp_path / str(result.manifest.onnx)
        onnx.checker.check_model(str(compiled), full_check=True)


def test_onnx_beside_its_checkpoint_is_judged(exports: dict[str, Path], tmp_path: Path) -> None:
    """An ONNX file that lies beside the checkpoint it names is judged against it, unasked."""
    source = Path(shutil.copy(exports["float32"], tmp_path))
    shutil.copy(exports["checkpoint"], tmp_path)
    plan = EnginePlan(source=source, output=tmp_path / "model.engine", profile=PROFILE)
    assert build(plan).passed is True
    tiny_checkpoint(tmp_path / exports["checkpoint"].name, seed=9)
    assert build(replace(plan, output=tmp_path / "other.engine")).passed is None


def test_recorded_switches_are_those_of_the_reference(tmp_path: Path) -> None:
    """An ONNX file made with a flag is judged with it, without its being given again."""
    checkpoint = tiny_checkpoint(tmp_path / "tiny.safetensors")
    source = tmp_path / "tiny.onnx"
    flags = NetworkOptions(flags={"upsampler_alpha": 0.05})
    export(ExportPlan(checkpoint=checkpoint, output=source, options=flags))
    plan = EnginePlan(source=source, output=tmp_path / "tiny.engine", profile=PROFILE)
    assert build(plan).passed is True
    again = replace(plan, output=tmp_path / "b.engine", checkpoint=checkpoint)
    assert build(again).passed is True


def test_checkpoint_named_later_is_heard(exports: dict[str, Path], tmp_path: Path) -> None:
    """An engine that was never judged is not reused unjudged once a checkpoint is named."""
    source = Path(shutil.copy(exports["float32"], tmp_path))
    plan = replace(from_onnx(exports, "float32", tmp_path), source=source)
    assert build(plan).passed is None
    assert build(plan).cached
    assert build(replace(plan, checkpoint=exports["checkpoint"])).passed is True


def test_another_checkpoint_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    """An ONNX file is not judged against a checkpoint that it was not made from."""
    other = tiny_checkpoint(tmp_path / "other.safetensors", seed=9)
    with pytest.raises(PlanError, match="was exported from a checkpoint with SHA-256"):
        build(from_onnx(exports, "float32", tmp_path, checkpoint=other))
    assert not (tmp_path / "model.engine").exists()


def test_failed_verdict_keeps_the_old_engine(exports: dict[str, Path], tmp_path: Path) -> None:
    """An ONNX file that fails its verdict becomes no engine; the one that is there stays."""
    plan = from_onnx(exports, "float32", tmp_path, checkpoint=exports["checkpoint"])
    assert build(plan).passed is True
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    wrong = replace(plan, options=NetworkOptions(flags={"upsampler_alpha": 0.9}), targets=("sm89",))
    result = build(wrong)
    assert result.passed is False
    assert not result.cached
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_manifest_tells_the_precision_of_the_onnx(exports: dict[str, Path], tmp_path: Path) -> None:
    """An engine compiled from a float16 ONNX file is a float16 engine."""
    assert build(from_onnx(exports, "float16", tmp_path)).manifest.precision == "fp16"


def test_manifest_tells_the_size_of_a_static_model(
    exports: dict[str, Path], tmp_path: Path
) -> None:
    """An engine compiled from a static ONNX file accepts its one size, and says so."""
    manifest = build(from_onnx(exports, "static", tmp_path, profile=None)).manifest.to_document()
    profile = manifest["profile"]
    assert (profile["min"], profile["opt"], profile["max"]) == ("20x12", "20x12", "20x12")


def test_manifest_tells_a_video_model(exports: dict[str, Path], tmp_path: Path) -> None:
    """An engine compiled from a video ONNX file is a video engine."""
    assert build(from_onnx(exports, "video", tmp_path)).manifest.video is True


def test_half_of_a_half(exports: dict[str, Path], tmp_path: Path) -> None:
    """A float16 ONNX file is taken as it is for --fp16, and refused for --bf16."""
    plan = from_onnx(exports, "float16", tmp_path, precision=Precision.FP16)
    result = build(plan)
    assert result.manifest.precision == "fp16"
    assert result.manifest.onnx_sha256 == sha256_of(exports["float16"])
    other = replace(plan, precision=Precision.BF16, output=tmp_path / "other.engine")
    with pytest.raises(PlanError, match="half already"):
        build(other)
    assert not list(tmp_path.glob("other*"))


def test_missing_source(tmp_path: Path) -> None:
    """A source that is not there is one line, and nothing is written."""
    for name in ("missing.onnx", "missing.safetensors"):
        with pytest.raises(ParagonExportError, match="missing"):
            build(EnginePlan(source=tmp_path / name, output=tmp_path / "a.engine"))
    assert list(tmp_path.iterdir()) == []


# --- on a GPU ------------------------------------------------------------------------------


def proving(parity: ParityReport | None) -> Prover:
    """Return what stands in for a GPU: a verdict on the engine."""

    def prove(engine: EngineFile, known: object, profile: Profile) -> Proof:
        assert engine.mismatch == ""
        assert known is not None
        assert profile == PROFILE
        return Proof(parity=parity)

    return prove


def test_proof_is_recorded(built: Built) -> None:
    """Once the engine itself has passed on a GPU, its manifest says so."""
    result = build(replace(built.plan, targets=("sm89",)), proving(built.result.parity))
    assert result.passed is True
    parity = read(built.engine)["parity"]
    assert (parity["passed"], parity["seen_on_gpu"]) == (True, True)
    assert "engine" in parity["judged"]


def test_engine_that_fails_on_a_gpu_is_not_kept(built: Built) -> None:
    """An engine that fails on a GPU is not written, and the one that was there still serves."""
    before = {path.name: path.read_bytes() for path in built.engine.parent.iterdir()}
    result = build(replace(built.plan, targets=("sm89",)), proving(ParityReport(rows=())))
    assert result.passed is False
    assert {path.name: path.read_bytes() for path in built.engine.parent.iterdir()} == before
    assert build(built.plan).cached


def test_without_a_gpu_the_engine_has_not_run(original: Built) -> None:
    """Where no GPU is, the build says that the engine itself has not run."""
    if cuda_gpu() is None:
        assert any("the engine has not run" in note for note in original.result.notes)
    seen = cuda_gpu() is not None
    assert read(original.engine)["parity"]["seen_on_gpu"] in (False, seen)


@pytest.mark.parametrize("name", ["net.safetensors", "net.PTH", "net.pt"])
def test_a_checkpoint_is_no_engine(name: str, tmp_path: Path) -> None:
    """Commands that take ONNX files and engines say what to do with it."""
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(PlanError, match="is a checkpoint; export it with onnx"):
        read_engine(tmp_path / name)
