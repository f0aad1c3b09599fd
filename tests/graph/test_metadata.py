"""Metadata of ONNX files: written and read by one schema, and believed only within its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from paragon_export.errors import CheckpointError, PlanError, RunError
from paragon_export.graph.emitter import ir_version_of
from paragon_export.graph.inspection import metadata_of
from paragon_export.graph.metadata import ACTED_ON, MAX_MINIMUM_PX, TEXTS, VALUES, ModelMetadata
from paragon_export.graph.onnx_io import read_onnx
from paragon_export.networks.describe import read_network
from paragon_export.networks.munet.layout import MAX_LEVELS
from paragon_export.networks.options import CHECKS, FLAGS
from paragon_export.pipeline.export import export
from paragon_export.precision.int8 import quantize_model
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.tiny import tiny_checkpoint
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import RunHere
from tests.robustness.test_hostile_onnx import plain

pytestmark = pytest.mark.usefixtures("foreign_files_here")

SWITCH = {"value": 0.5, "source": "flag"}


def told(**facts: Any) -> dict[str, str]:
    """Return entries of a file of this tool."""
    texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in facts.items()}
    return {"tool": "paragon-export 1", **texts}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a checkpoint with attention and its export."""
    folder = tmp_path_factory.mktemp("exports")
    checkpoint = tiny_checkpoint(folder / "c.safetensors", "photo", blocks=1)
    flags = {"window_size": 8, "upsampler_alpha": 0.25}
    output = folder / "m.onnx"
    export(ExportPlan(checkpoint=checkpoint, output=output, options=NetworkOptions(flags=flags)))
    return checkpoint, output


def changed(source: Path, target: Path, **facts: Any) -> Path:
    """Copy a model with entries of its metadata changed; None takes one away."""
    model = onnx.load(source)
    props = {entry.key: entry.value for entry in model.metadata_props} | told(**facts)
    helper.set_model_props(model, {n: t for n, t in props.items() if facts.get(n, t) is not None})
    onnx.save(model, target)
    return target


def test_what_is_written_is_read(exports: tuple[Path, Path]) -> None:
    """Reading and writing are each other's reverse, entry for entry."""
    written = {entry.key: entry.value for entry in onnx.load(exports[1]).metadata_props}
    facts = metadata_of(read_onnx(exports[1]))

    assert facts.to_props() == written
    assert ModelMetadata.from_document(facts.to_document()) == facts
    assert facts.window == 8
    assert facts.switches["upsampler_alpha"].value == 0.25
    assert facts.checkpoint == "c.safetensors"


def test_every_field_has_a_check() -> None:
    """No entry is read unchecked."""
    assert set(ModelMetadata.__dataclass_fields__) == {*TEXTS, *VALUES}
    assert set(ACTED_ON) < {*TEXTS, *VALUES}
    assert set(FLAGS) - set(CHECKS) == {"generation"}  # one of words that each family knows


def test_a_file_that_says_nothing_is_taken_for_plain() -> None:
    """Files of other tools have no entries, or their own."""
    assert ModelMetadata.from_props({}) == ModelMetadata()
    foreign = {"scale": "4x", "precision": "mixed", "classes": "cat, dog", "names": "[" * 9000}
    assert ModelMetadata.from_props(foreign) == ModelMetadata()


def test_bounds_are_those_of_the_networks() -> None:
    """What is served fits, whatever a file may claim."""
    assert MAX_MINIMUM_PX == 2**MAX_LEVELS


IMPOSSIBLE: list[tuple[str, Any]] = [
    *((name, value) for name in ("window", "smallest", "scale", "in_channels", "out_channels",
                                 "classes", "vocabulary", "dropped_tensors")
      for value in (-1, 2**30, 10**400, 1.5, True, '"16"', None, [1], {})),
    ("window", 33), ("window", 0), ("smallest", 65), ("scale", 17), ("in_channels", 257),
    ("window", "NaN"), ("window", "[" * 5000), ("smallest", "1e400"), ("window", "not JSON"),
    ("is_picture", "maybe"), ("is_picture", 1), ("video", None),
    ("switches", []), ("switches", {"a": 1}), ("switches", {"a": {"value": 1}}),
    ("switches", {"upsampler_alpha": {"source": "flag"}}), ("switches", {"a": {**SWITCH, "x": 1}}),
    ("switches", {"a": {**SWITCH, "source": "nobody"}}), ("switches", '{"a": 1, "a": 2}'),
    ("switches", {"a": {**SWITCH, "value": [1]}}), ("switches", {"a": {**SWITCH, "source": [1]}}),
    ("switches", {"upsampler_alpha": {**SWITCH, "value": 1e308}}),
    ("switches", {"window_size": {**SWITCH, "value": 10**9}}),
    ("switches", {"scale": {**SWITCH, "value": 0}}),
    ("switches", {"attention_mode": {**SWITCH, "value": ["sdpa"]}}),
    ("switches", {"bn_eps": {**SWITCH, "value": 1e300}}),
    ("switches", {"stem_stride": {**SWITCH, "value": 10**9}}),
    ("switches", "[" * 90 + "]" * 90),
    ("precision", "fp8"), ("io", ""), ("runtime", "x"), ("checkpoint_sha256", "null"),
    ("checkpoint_sha256", "G" * 64), ("checkpoint", "n" * 2**17),
    ("value_range", [0]), ("value_range", ["a", "b"]), ("value_range", [0, 10**400]),
    ("rewrites", {"a": -1}), ("rewrites", {"a": "b"}), ("made_with", {"a": 1}), ("islands", {}),
    ("islands", [1]), ("islands", [{"a": [1]}]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE, ids=repr)
def test_impossible_entries_are_refused(name: str, value: Any) -> None:
    """Each by its name, with what it must be."""
    with pytest.raises(ValueError, match=name) as caught:
        ModelMetadata.from_props(told(**{name: value}))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("fact", ["window", "smallest", "switches", "is_picture"])
@pytest.mark.parametrize("command", ["parity", "parity alone", "audit", "trt", "bench", "glyphs"])
def test_every_command_refuses_such_a_file(
    command: str, fact: str, tmp_path: Path, exports: tuple[Path, Path], run_here: RunHere
) -> None:
    """One line, and nothing is probed, built or written."""
    value = {"upsampler_alpha": {"source": "flag"}} if fact == "switches" else 10**6
    changed(exports[1], tmp_path / "m.onnx", **{fact: value})
    before = listing(tmp_path)
    arguments = {
        "parity": ["parity", exports[0], "m.onnx"],
        "parity alone": ["parity", "m.onnx"],
        "audit": ["audit", "m.onnx"],
        "trt": ["trt", "m.onnx", "--fp16"],
        "bench": ["bench", "m.onnx"],
        "glyphs": ["glyphs", "m.onnx", "m.onnx", "r.png"],
    }[command]
    if command == "glyphs":
        from PIL import Image

        Image.new("L", (128, 128)).save(tmp_path / "r.png")
        before = listing(tmp_path)

    done = run_here(*arguments)

    assert_one_helpful_line(done, "m.onnx")
    assert fact in done.stderr
    assert listing(tmp_path) == before


def test_a_file_of_another_tool_is_judged_as_ever(
    tmp_path: Path, exports: tuple[Path, Path], run_here: RunHere
) -> None:
    """Entries that mean something else there do not matter."""
    nothing = dict.fromkeys(ACTED_ON)
    foreign = {"tool": "theirs", "scale": "4x", "precision": "mixed", "classes": "a, b"}
    changed(exports[1], tmp_path / "m.onnx", **{**nothing, **foreign})
    flags = ["--window-size", "8", "--upsampler-alpha", "0.25"]

    assert run_here("parity", exports[0], "m.onnx", "--sizes", "5x7", *flags).code == 0


# --- ports --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dims",
    [(1, 3, 65536, 65536), (1, 100_000, "h", "w"), (1, 257, "h", "w"), (1, 3, 16385, 1),
     (1, 3, 4096, 4096), ("n", 200, 2000, 2000), (4096, 3, 64, 64), (1,) * 9],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("command", ["parity", "audit", "trt", "bench"])
def test_ports_that_cannot_be_probed_are_refused(
    command: str, dims: tuple[Any, ...], tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """Before a picture for them is made."""
    model = plain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", 1, dims))
    onnx.save(model, tmp_path / "m.onnx")
    first = {"parity": [tiny_realtime]}.get(command, [])

    done = run_here(command, *first, "m.onnx")

    assert_one_helpful_line(done, "m.onnx")
    assert "input" in done.stderr or "dimensions" in done.stderr


def test_a_grid_that_cannot_be_probed_is_refused(tmp_path: Path) -> None:
    """Thirty-two items of a classifier are fed at a time."""
    model = plain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", 7, ["n", 512, 512]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", 1, ["n", 9]))
    onnx.save(model, tmp_path / "m.onnx")

    with pytest.raises(RunError, match="larger than any supported network"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("kind", "dims"),
    [(7, ["n", 3, 16, 16]), (7, ["n", 16, 3]), (1, ["n", 1, 8, 1]), (7, ["n", "h", 16]), (7, []), (1, ["n", 3, 8, 8]), (1, ["n", 8, 8]),
     (1, ["n", 1, 8, "w"]), (1, ["n"])],
    ids=repr,
)  # fmt: skip
def test_a_classifier_takes_grids_or_cells(
    kind: int, dims: list[Any], tmp_path: Path, run_here: RunHere
) -> None:
    """Of what else it takes nothing is known to feed it."""
    model = plain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, dims))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", 1, ["n", 9]))
    onnx.save(model, tmp_path / "m.onnx")

    for command in ("audit", "bench"):
        assert_one_helpful_line(run_here(command, "m.onnx"), "input")


@pytest.mark.parametrize("dims", [(1, 3, 2160, 3840), ("n", 4, "h", "w"), (1, 256, 16, 16)])
def test_ports_of_real_networks_are_read(dims: tuple[Any, ...], tmp_path: Path) -> None:
    """Pictures of 4K, and of many channels."""
    model = plain()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", 1, dims))
    onnx.save(model, tmp_path / "m.onnx")

    read_onnx(tmp_path / "m.onnx")


def test_what_could_not_be_judged_is_not_asked_for(tmp_path: Path) -> None:
    """Plans have the bounds of the files that come of them."""
    plan = ExportPlan(checkpoint=Path("c"), output=Path("m.onnx"), static=Size(2160, 3840))
    with pytest.raises(PlanError, match="pixels"):
        replace(plan, static=Size(4096, 4096))
    with pytest.raises(PlanError, match="TensorRT's limit"):
        Profile(smallest=Size(1, 1), optimal=Size(1, 1), largest=Size(16384, 16384), batch=8)
    wide = tiny_checkpoint(tmp_path / "wide.safetensors", in_channels=300)
    with pytest.raises(CheckpointError, match="300 channels"):
        read_network(wide, NetworkOptions())


# --- switches -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["flag", "config", "metadata"])
@pytest.mark.parametrize("value", [1e308, 1001, 10**400])
def test_a_blend_beyond_any_network_is_refused(source: str, value: Any, tmp_path: Path) -> None:
    """Whoever says it: every picture would be infinite."""
    facts = {"upsampler_alpha": str(value)} if source == "metadata" else None
    path = tiny_checkpoint(tmp_path / "c.safetensors", metadata=facts)
    options = tmp_path / "o.yml"
    options.write_text(json.dumps({"network_g": {"upsampler_alpha": value}}), encoding="utf-8")
    flags = {"upsampler_alpha": value} if source == "flag" else {}
    given = NetworkOptions(flags=flags, config=options if source == "config" else None)

    with pytest.raises(PlanError, match=r"upsampler_alpha|option file"):
        read_network(path, given)


# --- versions -----------------------------------------------------------------------------

IR_VERSIONS = ((18, 8), (19, 9), (20, 9), (21, 10), (23, 11))
"""Operator sets and their IR versions."""


@pytest.mark.parametrize(
    ("variant", "opset", "ir_version"),
    [
        *(("realtime", *pair) for pair in IR_VERSIONS),
        *(("photo", *pair) for pair in (IR_VERSIONS[0], IR_VERSIONS[-1])),
        # Attention has another operator from 23 on alone:
        *(pytest.param("photo", *pair, marks=pytest.mark.slow) for pair in IR_VERSIONS[1:-1]),
    ],
)
def test_the_ir_version_is_that_of_the_operator_set(
    variant: str, opset: int, ir_version: int, tmp_path: Path
) -> None:
    """A runtime that knows the operator set reads no later one; its checker agrees."""
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", variant, blocks=1)
    for precision in (Precision.FP32, Precision.FP16):
        output = tmp_path / f"{precision}.onnx"
        plan = ExportPlan(
            checkpoint=checkpoint,
            output=output,
            opset=opset,
            precision=precision,
            static=Size(8, 8),
            options=NetworkOptions(flags={"window_size": 8} if variant == "photo" else {}),
        )
        assert export(plan).passed
        model = onnx.load(output)
        assert model.ir_version == ir_version
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_a_quantised_model_keeps_its_versions(opset: int, tmp_path: Path) -> None:
    """What ONNX Runtime writes on the way is of the same operator set and IR version."""
    checkpoint = tiny_checkpoint(tmp_path / "c.safetensors", blocks=1)
    output = tmp_path / "m.onnx"
    export(ExportPlan(checkpoint=checkpoint, output=output, opset=opset))
    wide = read_onnx(output)
    pictures = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)

    made = quantize_model(wide, [{"input": pictures}])

    assert made.ir_version == wide.ir_version == ir_version_of(opset)
    assert made.opset_imports[""] == opset
