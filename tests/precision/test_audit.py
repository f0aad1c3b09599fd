"""The range audit: what it measures is true, what overflows is mended with least, and it can fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from paragon_export.graph.inspection import metadata_of
from paragon_export.graph.onnx_io import read_onnx, serialized, write_onnx
from paragon_export.inputs.probes import audit_probes
from paragon_export.inputs.sizes import default_sizes
from paragon_export.parity.candidates import read_artifact
from paragon_export.parity.check import judge
from paragon_export.pipeline.audit_ranges import audit_source
from paragon_export.pipeline.build import build
from paragon_export.pipeline.export import export
from paragon_export.precision import attribution
from paragon_export.precision.attribution import MAX_RUNS, largest
from paragon_export.precision.audit import audit, subject_of, subject_of_file, with_islands
from paragon_export.precision.half import FLOAT32_INPUTS, to_precision
from paragon_export.precision.instrument import Subject, measure
from paragon_export.precision.range_report import MAX_FINITE, MIN_NORMAL, RangeAudit
from paragon_export.precision.rounding import rounding_model
from paragon_export.precision.typed_graph import values_of
from paragon_export.specs.network import InputSpec, Task
from paragon_export.specs.plans import EnginePlan, ExportPlan, NetworkOptions
from paragon_export.specs.profiles import Profile
from paragon_export.specs.types import Precision, Size
from paragon_export.testing.glyph import small_weights
from paragon_export.testing.tiny import save, tiny_hyperparameters, tiny_tensors
from tests.conftest import RunHere
from tests.networks.test_munet import SMALL, weights_of
from tests.precision.test_half import IMAGE, VARIANTS, exported, graph_of, session, weight

pytestmark = pytest.mark.usefixtures("foreign_files_here")

FP16, BF16, FP32 = Precision.FP16, Precision.BF16, Precision.FP32

LOUD = 2.0**15


@pytest.fixture(autouse=True)
def fewer_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the largest shares of the error in a few runs; tests of the shares undo this."""
    monkeypatch.setattr(attribution, "MAX_RUNS", 24)


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose middle leaves half's range: exact in float32."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["conv_in.weight"] *= LOUD
    tensors["conv_mid.weight"] /= LOUD
    return save(tensors, tmp_path_factory.mktemp("loud") / "loud.safetensors")


@pytest.fixture(scope="module")
def wide(loud: Path) -> Path:
    """Return the float32 export of ``loud``."""
    path = loud.with_name("wide.onnx")
    assert export(ExportPlan(checkpoint=loud, output=path)).passed
    return path


def subject(model: ir.Model, *, task: Task = Task.IMAGE) -> Subject:
    return replace(subject_of_file(serialized(model, Path("m.onnx"))), task=task)


def chain(*nodes: onnx.NodeProto, **weights: object) -> ir.Model:
    """Return a float32 graph from ``input`` to ``output`` with these weights."""
    initializers = [weight(name, values) for name, values in weights.items()]
    return graph_of(nodes, shape=("batch", 3, "height", "width"), initializers=initializers)


def op(op_type: str, *names: str, **attributes: object) -> onnx.NodeProto:
    """Return a node named after its output, the last of ``names``."""
    return onnx.helper.make_node(op_type, names[:-1], names[-1:], name=names[-1], **attributes)


def overflowing() -> ir.Model:
    """Return a graph with two tensors beyond half's range in its middle."""
    return chain(
        op("Add", "input", "nine", "seen"),
        op("Mul", "seen", "up", "large"),
        op("Transpose", "large", "turned", perm=[0, 1, 3, 2]),
        op("Mul", "turned", "down", "small"),
        op("Transpose", "small", "back", perm=[0, 1, 3, 2]),
        op("Sqrt", "back", "output"),
        nine=9,
        up=1e4,
        down=1e-5,
    )


def islands(result: RangeAudit) -> list[str]:
    return [island.node for island in result.islands]


def row(result: RangeAudit, name: str) -> dict[str, object]:
    return next(tensor.to_json() for tensor in result.tensors if tensor.name == name)


# --- what is measured ----------------------------------------------------------------------


@pytest.mark.parametrize("precision", [FP16, BF16])
@pytest.mark.parametrize("variant", ["realtime", "photo"])
def test_ranges_are_those_of_numpy(variant: str, precision: Precision) -> None:
    """Peaks and underflow of every tensor equal those of a run that gives all tensors out."""
    model = exported(variant)
    probes = audit_probes(InputSpec(channels=3, window=16 if variant == "photo" else 1))[:2]
    asked = Subject(inputs=IMAGE, probes=tuple(probes))
    _, result = audit(model, precision, FP32, asked)
    everything = ir.from_proto(ir.to_proto(model))
    known = {port.name for port in everything.graph.outputs}
    made = [v for n in everything.graph for v in n.outputs if v.name not in known]
    names = [v.name for v in made if v.dtype in (ir.DataType.FLOAT, None)]
    everything.graph.outputs.extend(v for v in made if v.dtype in (ir.DataType.FLOAT, None))
    runs = [session(everything).run(names, {"input": p.frames[0]}) for p in probes]
    seen = 0
    for name, *arrays in zip(names, *runs, strict=True):
        if arrays[0].dtype != np.float32:
            continue
        seen += 1
        found = next(tensor for tensor in result.tensors if tensor.name == name)
        sizes = np.abs(np.stack([array.reshape(-1) for array in arrays]))
        small = (sizes > 0) & (sizes < MIN_NORMAL[precision])
        assert found.peak == pytest.approx(sizes.max(), rel=1e-5), name
        assert found.underflow == pytest.approx(small.mean(), abs=2e-3), name
        assert found.headroom == pytest.approx(MAX_FINITE[precision] / found.peak)
    assert seen > 20


def test_weights_are_measured_too() -> None:
    """Every float weight that is read in half has a row with its own figures."""
    model = exported("realtime")
    _, result = audit(
        model,
        FP16,
        FP32,
        Subject(inputs=IMAGE, probes=tuple(audit_probes(InputSpec(channels=3, window=1)))),
    )
    kept = {
        value.name: value.const_value.numpy()
        for value in values_of(model)
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT
        and any(i not in FLOAT32_INPUTS.get(n.op_type, ()) for n, i in value.uses())
    }  # fmt: skip
    found = {t.name: t for t in result.tensors if t.op_type == "weight"}
    assert set(found) == set(kept)
    for name, array in kept.items():
        assert found[name].peak == np.abs(array).max()
        assert found[name].underflow == np.mean((array != 0) & (np.abs(array) < 2.0**-14))


def test_pictures_are_of_every_kind_and_of_true_shapes() -> None:
    """A photograph and all stress pictures at an odd size, and a larger photograph."""
    probes = audit_probes(InputSpec(channels=3, window=16))
    odd = Size(17, 33)
    assert odd in [size for size, _ in default_sizes(16)]
    assert [p.label for p in probes if p.size == odd] == [
        "photograph", "saturated", "noise", "checkerboard", "gradient", "flat",
    ]  # fmt: skip
    assert [p.label for p in probes if p.size != odd] == ["photograph"]
    assert all(p.is_stress == (p.label != "photograph") for p in probes)
    assert {p.size for p in audit_probes(InputSpec(channels=3, window=16), static=Size(9, 7))} == {
        Size(9, 7)
    }


def test_underflow_is_seen() -> None:
    """What is below the smallest normal number counts, exact zeros and larger values do not."""
    model = chain(
        op("Mul", "input", "tiny", "faint"),
        op("Mul", "input", "zero", "nothing"),
        op("Add", "faint", "nothing", "sum"),
        op("Mul", "sum", "huge", "output"),
        tiny=1e-7,
        zero=0,
        huge=1e7,
    )
    _, result = audit(model, FP16, FP32, subject(model))
    assert row(result, "faint")["underflow"] > 0.7
    assert row(result, "nothing")["underflow"] == 0
    assert row(result, "output")["underflow"] == 0
    assert result.thinnest is not None
    assert result.thinnest.name in ("faint", "sum")
    _, wide = audit(model, BF16, FP32, subject(model))
    assert row(wide, "faint")["underflow"] == 0


def test_video_state_is_audited(tiny_realtime: Path, tmp_path: Path) -> None:
    """A video model is fed clips: features carried over and their blend have ranges."""
    plan = ExportPlan(checkpoint=tiny_realtime, output=tmp_path / "v.onnx", video=True)
    result = audit_source(replace(plan, precision=FP16))
    assert result.passed
    assert 0 < row(result, "prev_feat")["peak"] == row(result, "feature_map")["peak"]
    assert row(result, "alpha")["peak"] == pytest.approx(0.2)


def test_glyph_classifiers_are_audited(tmp_path: Path) -> None:
    """A network without pictures is fed its own probes."""
    checkpoint = save(small_weights(), tmp_path / "phase_2.safetensors")
    plan = ExportPlan(checkpoint=checkpoint, output=tmp_path / "g.onnx", precision=FP16)
    result = audit_source(plan)
    assert result.passed
    assert result.diverged == ()
    assert row(result, "output")["peak"] > 0
    assert "glyph-like IDs 16x16" in result.pictures


# --- what is mended ------------------------------------------------------------------------


def rounds_to_infinity(model: ir.Model, asked: Subject, nodes: list[str]) -> bool:
    """Whether any tensor overflows in half where these nodes are in float32."""
    rounded = rounding_model(to_precision(with_islands(model, nodes), FP16, FP32))
    return not np.isfinite(measure(rounded, asked, 0.0).peaks).all()


def test_what_overflows_becomes_an_island() -> None:
    """The nodes that make or read what half cannot hold, and no others."""
    model = overflowing()
    mended, result = audit(model, FP16, FP32, subject(model))
    assert islands(result) == ["large", "turned", "small"]
    assert {island.because for island in result.islands} == {"large", "turned"}
    assert all(island.peak == pytest.approx(1e5) for island in result.islands)
    assert result.passed
    assert "large reaches 1e+05" in result.notes[0]
    assert rounds_to_infinity(model, subject(model), [])
    assert not rounds_to_infinity(mended, subject(model), [])
    assert row(result, "large")["half"] is False
    assert row(result, "small")["half"] is True


def test_bfloat16_needs_none() -> None:
    """The same graph fits bfloat16 as it is, and comes back untouched."""
    model = overflowing()
    same, result = audit(model, BF16, FP32, subject(model))
    assert same is model
    assert result.islands == ()


def test_a_weight_beyond_half_is_read_in_float32() -> None:
    """Its readers become an island, where the conversion alone refuses the model."""
    model = chain(
        op("Mul", "input", "large", "product"), op("Div", "product", "large", "output"), large=7e4
    )
    mended, result = audit(model, FP16, FP32, subject(model))
    assert islands(result) == ["product", "output"]
    to_precision(mended, FP16, FP32)


def test_rounding_over_the_edge_is_mended() -> None:
    """A product that fits in float32 and is infinite once its factors are rounded."""
    model = chain(
        op("Relu", "input", "seen"),
        op("Mul", "seen", "near", "first"),
        op("Mul", "first", "top", "edge"),
        op("Mul", "edge", "down", "output"),
        near=1.0005,
        top=65470,
        down=1e-5,
    )
    asked = subject(model)
    assert rounds_to_infinity(model, asked, [])
    mended, result = audit(model, FP16, FP32, asked)
    assert row(result, "edge")["peak"] < 65504
    assert not rounds_to_infinity(mended, asked, [])
    found = islands(result)
    assert found
    for name in found:
        assert rounds_to_infinity(model, asked, [other for other in found if other != name])


def test_a_network_that_overflows_is_mended_and_passes(
    loud: Path, wide: Path, tmp_path: Path
) -> None:
    """With its islands it passes the verdict, without them it fails; all of it is told."""
    plan = ExportPlan(checkpoint=loud, output=tmp_path / "loud.onnx", precision=FP16)
    result = export(plan)
    assert result.passed
    assert result.parity.passed
    assert result.ranges is not None
    assert result.ranges.islands
    assert any("computed in float32 instead" in note for note in result.notes)
    written = read_onnx(plan.output)
    told = metadata_of(written).islands
    assert told == tuple(island.to_json() for island in result.ranges.islands)
    assert any(node.op_type == "Cast" for node in written.graph)
    bare = tmp_path / "bare.onnx"
    write_onnx(to_precision(read_onnx(wide), FP16, FP32), bare)
    unmended = judge(result.reference, [read_artifact(bare)])
    assert not unmended.passed
    assert "non-finite" in {failing.failure for failing in unmended.rows}


def test_every_island_is_needed(wide: Path) -> None:
    """Without any one of them the overflow returns."""
    model = read_onnx(wide)
    asked = replace(subject(model), probes=subject(model).probes[:3])
    mended, result = audit(model, FP16, FP32, asked)
    found = islands(result)
    assert len(found) > 3
    assert len(found) < model.graph.num_nodes() / 2
    assert not rounds_to_infinity(mended, asked, [])
    for name in found:
        assert rounds_to_infinity(model, asked, [other for other in found if other != name]), name


def test_an_engine_builds_from_islands(loud: Path, tmp_path: Path) -> None:
    """TensorRT-RTX takes the casts at their borders, and the manifest tells of the islands."""
    tiny = Size(8, 8)
    plan = EnginePlan(
        source=loud,
        output=tmp_path / "loud.engine",
        precision=FP16,
        targets=("sm86",),
        profile=Profile(smallest=Size(1, 1), optimal=tiny, largest=tiny),
    )
    result = build(plan)
    assert result.passed
    assert plan.output.stat().st_size > 1000
    assert result.manifest.onnx_metadata.islands
    assert any("computed in float32 instead" in note for note in result.notes)


def test_an_onnx_file_is_mended_on_its_way_to_an_engine(
    loud: Path, wide: Path, tmp_path: Path
) -> None:
    """So is a float32 file that is converted for an engine."""
    tiny = Size(8, 8)
    plan = EnginePlan(
        source=wide,
        output=tmp_path / "wide.engine",
        precision=FP16,
        targets=("sm86",),
        profile=Profile(smallest=Size(1, 1), optimal=tiny, largest=tiny),
    )
    result = build(plan)
    assert result.passed
    assert result.manifest.onnx_metadata.islands
    assert any("computed in float32 instead" in note for note in result.notes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_that_fit_are_left_alone(variant: str) -> None:
    """No island, and the very graph that was given: exports keep their bytes."""
    model = exported(variant)
    asked = subject_of(InputSpec(window=16 if variant in ("photo", "pro") else 1), IMAGE)
    for precision in (FP16, BF16):
        same, result = audit(model, precision, FP32, asked)
        assert same is model
        assert result.islands == ()
        assert result.passed
        assert result.notes == ()
        assert all(not tensor.overflows for tensor in result.tensors)


def test_exports_that_fit_say_nothing_of_islands(tiny_realtime: Path, tmp_path: Path) -> None:
    """The metadata names islands only where there are some."""
    plan = ExportPlan(checkpoint=tiny_realtime, output=tmp_path / "p.onnx", precision=FP16)
    result = export(plan)
    assert result.ranges is not None
    assert not metadata_of(read_onnx(plan.output)).islands


def diverging() -> ir.Model:
    """Return a graph that squares edges thrice: beyond half on a checkerboard, faint elsewhere."""
    kernel = np.zeros((3, 1, 3, 3), np.float32)
    kernel[:, 0] = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    return chain(
        op("Conv", "input", "kernel", "edges", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=3),
        op("Mul", "edges", "edges", "two"),
        op("Mul", "two", "two", "four"),
        op("Mul", "four", "four", "eight"),
        op("Mul", "eight", "faint", "output"),
        kernel=kernel,
        faint=0.01,
    )


def test_where_the_network_diverges_is_told_and_not_mended() -> None:
    """A stress picture that the network itself blows up on asks for no island."""
    model = diverging()
    same, result = audit(model, FP16, FP32, subject(model))
    assert "checkerboard 17x33" in result.diverged
    assert "photograph 17x33" in result.pictures
    assert same is model
    assert row(result, "eight")["peak"] < 65504 < row(result, "eight")["peak_diverged"]
    assert "eight" in result.beyond_where_diverged
    mended, strict = audit(model, FP16, FP32, subject(model, task=Task.MAP))
    assert strict.diverged == ()
    assert islands(strict) == ["eight", "output"]
    assert mended is not model


def test_a_mask_that_is_infinite_anyway_is_no_overflow() -> None:
    """The logarithm of zero is minus infinity in float32 as in half, and meant so."""
    model = chain(
        op("Sub", "input", "input", "nothing"),
        op("Log", "nothing", "mask"),
        op("Exp", "mask", "zero"),
        op("Add", "zero", "input", "output"),
    )
    same, result = audit(model, FP16, FP32, subject(model))
    assert same is model
    assert result.passed
    assert result.notes == ()
    assert row(result, "mask")["peak"] is None
    assert result.tightest is not None
    assert result.tightest.name != "mask"
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("version", ["munet1", pytest.param("munet5", marks=pytest.mark.slow)])
def test_munets_need_no_island(version: str, tmp_path: Path) -> None:
    """Not even those that take a Fourier transform: what is large there is float32 already."""
    checkpoint = save(weights_of(SMALL[version]), tmp_path / "m.safetensors")
    flags = {"generation": version}
    plan = ExportPlan(
        checkpoint=checkpoint,
        output=tmp_path / "m.onnx",
        precision=FP16,
        options=NetworkOptions(flags=flags),
    )
    result = audit_source(plan)
    assert result.islands == ()
    assert result.notes == ()
    largest_wide = max(t.peak for t in result.tensors if not t.is_half and t.is_finite)
    assert version == "munet1" or largest_wide > 65504


# --- what errs most ------------------------------------------------------------------------


def test_the_largest_share_is_that_of_a_coarse_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum at which half has steps of two makes nearly all of the error."""
    monkeypatch.setattr(attribution, "MAX_RUNS", MAX_RUNS)
    model = chain(
        op("Mul", "input", "near", "first"),
        op("Add", "first", "far", "coarse"),
        op("Sub", "coarse", "far", "output"),
        near=1.01,
        far=2048,
    )
    _, result = audit(model, FP16, FP32, subject(model), shares=True)
    assert result.coarsest is not None
    assert result.coarsest.name == "coarse"
    assert result.coarsest.error_share == pytest.approx(1, abs=0.05)
    _, without = audit(model, FP16, FP32, subject(model))
    assert without.coarsest is None


def test_shares_of_independent_roundings_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network with few roundings that matter the largest shares are most of the error."""
    monkeypatch.setattr(attribution, "MAX_RUNS", MAX_RUNS)
    asked = subject_of(InputSpec(), IMAGE)
    _, result = audit(exported("realtime"), FP16, FP32, asked, shares=True)
    shares = [t.error_share for t in result.tensors if t.error_share is not None]
    assert len(shares) == 5
    assert 0.5 < sum(shares) < 1.2


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_the_largest_of_many_are_found(count: int) -> None:
    """Halving finds the largest figures in order, and asks for less than all of them."""
    figures = np.random.default_rng(count).random(count) ** 8
    asked = []

    def energy(start: int, stop: int) -> float:
        asked.append((start, stop))
        return float(figures[start:stop].sum())

    found = largest(energy, count, 3, 10_000)
    order = np.argsort(-figures)[:3]
    assert [index for index, _ in found] == order.tolist()
    assert [figure for _, figure in found] == pytest.approx(figures[order])
    assert len(asked) <= 2 * count
    asked.clear()
    largest(energy, count, 3, 4)
    assert len(asked) <= 5


# --- the audit can fail, and what is told --------------------------------------------------


def test_a_port_beyond_half_cannot_be_mended() -> None:
    """An output that half has to hold is no matter for islands: the audit fails and says so."""
    model = chain(op("Mul", "input", "up", "output"), up=1e5)
    _, result = audit(model, FP16, FP16, subject(model, task=Task.MAP))
    assert not result.passed
    assert "cannot hold output, which reaches 1e+05" in result.fault
    assert result.fault in result.notes
    assert row(result, "output")["headroom"] < 1
    assert next(t for t in result.tensors if t.name == "output").overflows
    _, wide = audit(model, FP16, FP32, subject(model, task=Task.MAP))
    assert wide.passed
    assert islands(wide) == ["output"]


def test_little_headroom_is_told() -> None:
    """What comes close to the largest number without reaching it is worth a word."""
    model = chain(op("Mul", "input", "up", "near"), op("Mul", "near", "down", "output"),
                  up=5e4, down=1e-5)  # fmt: skip
    _, result = audit(model, FP16, FP32, subject(model))
    assert result.islands == ()
    (note,) = result.notes
    assert "near reaches 5e+04" in note


def test_the_json_is_strict_and_whole(loud: Path, run_here: RunHere, tmp_path: Path) -> None:
    """``--audit`` writes every tensor, and the same figures stand in the JSON of the export."""
    done = run_here("onnx", loud, "--fp16", "-o", "m.onnx", "--audit", "a.json", "--json")
    assert done.code == 0, done.stderr
    told = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    rows = told.pop("rows")
    assert json.loads(done.stdout)["audit"] == told
    assert set(told) == {
        "precision", "passed", "tensors", "tightest", "thinnest", "coarsest", "islands",
        "pictures", "diverged", "beyond_where_diverged", "fault",
    }  # fmt: skip
    assert len(rows) == told["tensors"] > 50
    for tensor in rows:
        assert set(tensor) == {
            "name", "op_type", "peak", "headroom", "underflow", "half", "picture",
            "peak_diverged", "error_share",
        }  # fmt: skip
    halves = [float(r["headroom"]) for r in rows if r["half"] and r["op_type"] != "weight"]
    assert halves == sorted(halves)
    assert told["coarsest"]["error_share"] > 0
    assert {"node", "op_type", "because", "peak"} == set(told["islands"][0])
    assert "computed in float32 instead" in done.stderr


def test_the_summary_of_an_export(tiny_realtime: Path, run_here: RunHere) -> None:
    """A person reads least headroom and underflow without asking."""
    done = run_here("onnx", tiny_realtime, "--fp16", "-o", "m.onnx")
    assert done.code == 0
    text = " ".join(done.stdout.split())
    assert "least headroom" in text
    assert "most underflow" in text
    assert "audit" not in json.loads(run_here("onnx", tiny_realtime, "--json").stdout)


def test_the_command_takes_checkpoints_and_files(
    loud: Path, wide: Path, tmp_path: Path, run_here: RunHere
) -> None:
    """A checkpoint and the float32 file made from it have the same table and the same islands."""
    shutil.copy(wide, tmp_path)
    tables = [run_here("audit", source) for source in (loud, "wide.onnx")]
    assert [done.code for done in tables] == [0, 0]
    assert tables[0].stdout == tables[1].stdout
    assert "float32 island" in tables[0].stdout
    assert "conv_mid/" in tables[0].stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wide.onnx"]
    done = run_here("audit", "wide.onnx", "--json", "--html", "a.html", "--markdown", "a.md")
    assert json.loads(done.stdout)["islands"]
    assert "Nodes in float32" in (tmp_path / "a.html").read_text("utf-8")
    assert "`wide.onnx` fits into fp16 with" in (tmp_path / "a.md").read_text("utf-8")


def test_a_folder_adds_pictures(tiny_realtime: Path, tmp_path: Path, run_here: RunHere) -> None:
    """The pictures of ``--images`` are measured as well."""
    from PIL import Image

    (tmp_path / "mine").mkdir()
    Image.new("RGB", (21, 13), (9, 200, 30)).save(tmp_path / "mine" / "green.png")
    done = run_here("audit", tiny_realtime, "--images", "mine", "--json")
    assert done.code == 0
    assert "green.png 13x21" in json.loads(done.stdout)["pictures"]


def test_an_audit_that_fails_ends_in_1(tmp_path: Path, run_here: RunHere) -> None:
    """A half port beyond half's range: no file, exit code 1, and the audit says why."""
    tensors = tiny_tensors(tiny_hyperparameters("realtime"))
    tensors["conv_out.bias"] += 1e6
    checkpoint = save(tensors, tmp_path / "bright.safetensors")
    args = ("onnx", checkpoint, "--fp16", "--io", "fp16", "-o", "m.onnx", "--audit", "a.json")
    done = run_here(*args)
    assert done.code == 1, done.stderr
    assert not (tmp_path / "m.onnx").exists()
    assert "no float32 island prevents it" in done.stderr
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["passed"] is False
    assert told["fault"]


REFUSED = {
    "no half": (["onnx", "{c}", "--audit", "a.json"], "--audit is about half precision"),
    "over the checkpoint": (["onnx", "{c}", "--fp16", "--audit", "{c}"], "is also the source"),
    "over the output": (
        ["onnx", "{c}", "--fp16", "-o", "m.onnx", "--audit", "m.onnx"],
        "is the file to export to",
    ),
    "no folder": (["onnx", "{c}", "--fp16", "--audit", "no/a.json"], "no/a.json"),
    "half already": (["audit", "half.onnx"], "is half already"),
    "no model": (["audit", "absent.onnx"], "absent.onnx"),
    "no folder of pictures": (["audit", "{c}", "--images", "absent"], "--images absent"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_audits_are_refused(
    name: str, tiny_realtime: Path, tmp_path: Path, run_here: RunHere
) -> None:
    """One line, exit code 3, and every file keeps its bytes."""
    checkpoint = tmp_path / "c.safetensors"
    checkpoint.write_bytes(tiny_realtime.read_bytes())
    model = exported("realtime")
    write_onnx(to_precision(model, FP16, FP32), tmp_path / "half.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    args, word = REFUSED[name]
    done = run_here(*(arg.format(c=checkpoint) for arg in args))
    assert done.code == 3
    assert word in done.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_ports_without_pictures_are_refused(tmp_path: Path, run_here: RunHere) -> None:
    """A file with more inputs than the picture is refused by their names."""
    model = chain(op("Relu", "input", "output"))
    model.graph.inputs[0].name = "pixels"
    model.graph.inputs.append(
        ir.Value(name="noise", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    )
    write_onnx(model, tmp_path / "other.onnx")
    done = run_here("audit", "other.onnx")
    assert done.code == 3
    assert "inputs are ['pixels', 'noise']" in done.stderr
