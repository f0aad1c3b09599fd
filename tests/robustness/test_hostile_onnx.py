"""Hostile ONNX files: nothing outside is read, nothing loops, nothing takes the machine."""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from paragon_export.errors import ParagonExportError, RunError
from paragon_export.graph.inspection import ports_of
from paragon_export.graph.onnx_checks import DOMAINS
from paragon_export.graph.onnx_io import read_onnx, read_onnx_file, silenced_onnx_ir
from paragon_export.parity.candidates import open_onnx
from paragon_export.pipeline.export import export
from paragon_export.specs.network import Port
from paragon_export.specs.plans import ExportPlan
from paragon_export.specs.types import OnnxBackend, Size
from paragon_export.system import limits
from paragon_export.testing.mutate import mutate_bytes
from paragon_export.testing.mutate_onnx import mutate_onnx
from tests.cli.test_errors import assert_one_helpful_line, listing
from tests.conftest import ON_CPU, RunCli, RunHere

pytestmark = pytest.mark.processes

Change = Callable[[onnx.ModelProto], Any]


def plain(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """Return a model from ``input`` to ``output``; without nodes, a convolution."""
    dims = ["batch", 3, "height", "width"]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("input", "output")]
    if not nodes:
        nodes = (helper.make_node("Conv", ["input", "w"], ["output"], name="conv"),)
        weights = {"w": np.ones((3, 3, 1, 1), np.float32), **weights}
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def body() -> onnx.GraphProto:
    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Identity", ["input"], ["b"])], "body", [], [value])


def _outside(location: str) -> Change:
    """Put the weights into another file."""

    def change(model: onnx.ModelProto) -> None:
        _external(model.graph.initializer[0], location)

    return change


def _external(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "36")):
        tensor.external_data.add(key=key, value=value)


def _constant(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    _external(tensor, "../../etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def _constants(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    _external(tensor, "w.bin")
    attribute = helper.make_attribute("many", [tensor])
    model.graph.node[0].attribute.append(attribute)


def _sparse(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(whole(0), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def _sparse_attribute(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(whole(0), "i"), [2**40])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("evil", "f", ["x"], ["y"], [node], []))


def _loop(model: onnx.ModelProto) -> None:
    node = helper.make_node("Loop", ["", ""], ["l"], body=body())
    model.graph.node.insert(0, node)


def _branch(model: onnx.ModelProto) -> None:
    branches = {"then_branch": body(), "else_branch": body()}
    model.graph.node.insert(0, helper.make_node("If", ["input"], ["l"], **branches))


def _scan(model: onnx.ModelProto) -> None:
    node = helper.make_node("Scan", ["input"], ["l"], body=body(), num_scan_inputs=1)
    model.graph.node.insert(0, node)


def _graphs(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("many", [body()]))


def _nest(model: onnx.ModelProto) -> None:
    inner = body()
    for _ in range(40):
        value = helper.make_tensor_value_info("b", TensorProto.FLOAT, None)
        node = helper.make_node("If", ["input"], ["b"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "body", [], [value])
        if inner.ByteSize() > 2**20:
            break
    model.graph.node.insert(0, helper.make_node("If", ["input"], ["l"], then_branch=inner))


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Add", ["input", "q"], ["p"]))
    model.graph.node.insert(1, helper.make_node("Add", ["input", "p"], ["q"]))


def _own_input(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "output"


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def _overwrites(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Identity", ["input"], ["w"]))


def _no_output(model: onnx.ModelProto) -> None:
    model.graph.node[0].output[0] = "other"


def _dims(*dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _type(number: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].data_type = number

    return change


def _text(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"\x1b"]))


def _segment(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].segment.begin = 1


def _field(name: str, value: Any) -> Change:
    return lambda model: setattr(model, name, value)


def _opset(domain: str, version: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid(domain, version))

    return change


def _two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 18))


def _node(name: str, value: str) -> Change:
    return lambda model: setattr(model.graph.node[0], name, value)


def _input_dim(value: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = value

    return change


def _sequence(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(1, None)
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(tensor))


def _many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend([onnx.NodeProto()] * 50_001)


def _of_ort(op_type: str = "MultiHeadAttention", inputs: int = 3, **attributes: Any) -> Change:
    """Put an operator of ONNX Runtime that is not supported in front."""

    def change(model: onnx.ModelProto) -> None:
        names = ["input"] * inputs
        node = helper.make_node(op_type, names, ["a"], domain="com.microsoft", **attributes)
        model.graph.node.insert(0, node)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    return change


def _before(op_type: str, *more: str, **attributes: Any) -> Change:
    """Put a standard operator in front."""
    node = helper.make_node(op_type, ["input", *more], ["a"], **attributes)
    return lambda model: model.graph.node.insert(0, node)


def _dropout(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    _before("Dropout", "", "training")(model)


REFUSED: dict[str, tuple[Change, str]] = {
    "weights in /etc": (_outside("/etc/passwd"), "in another file"),
    "weights above": (_outside("../../etc/passwd"), "in another file"),
    "weights beside": (_outside("w.bin"), "in another file"),
    "weights behind a link": (_outside("link"), "in another file"),
    "weights nowhere": (_outside("absent"), "in another file"),
    "a constant outside": (_constant, "in another file"),
    "constants outside": (_constants, "in another file"),
    "sparse weights": (_sparse, "sparse"),
    "a sparse constant": (_sparse_attribute, "sparse"),
    "a function": (_function, "functions"),
    "a loop": (_loop, "a graph inside"),
    "a branch": (_branch, "a graph inside"),
    "a scan": (_scan, "a graph inside"),
    "graphs in a list": (_graphs, "a graph inside"),
    "nested graphs": (_nest, "a graph inside"),
    "a cycle": (_cycle, "before a node computes it"),
    "a node that eats its output": (_own_input, "before a node computes it"),
    "weights twice": (_twice, "two weights of one name"),
    "a value made twice": (_made_twice, "computed twice"),
    "weights made by a node": (_overwrites, "computed twice"),
    "an output of nowhere": (_no_output, "no node computes"),
    "weights too short": (_dims(3, 3, 3, 3), "not an ONNX file|self-contained"),
    "weights too long": (_dims(1, 1, 1, 1), "not an ONNX file|self-contained"),
    "weights of 2^40": (_dims(2**40), "dimensions"),
    "overflowing weights": (_dims(2**62, 4), "dimensions"),
    "negative weights": (_dims(-3, -3, 1, 1), "dimensions"),
    "weights of nothing and all": (_dims(0, 2**62), "not an ONNX file|self-contained"),
    "weights of text": (_text, "of text"),
    "weights of no type": (_type(0), "of no type"),
    "weights of an unknown type": (_type(9999), "unknown type"),
    "weights in segments": (_segment, "unknown type"),
    "an old IR version": (_field("ir_version", 1), "IR version 1"),
    "a new IR version": (_field("ir_version", 999), "IR version 999"),
    "a new operator set": (_opset("", 999), "operator set"),
    "an old operator set": (_opset("", 1), "operator set"),
    "no operator set": (_opset("com.microsoft", 1), "operator set"),
    "two operator sets": (_two_opsets, "operator set"),
    "another library's set": (_opset("evil\x1b[2J", 1), "operator set"),
    "a softmax in half": (_before("Attention", "input", "input", softmax_precision=10), "inside"),
    "means in bfloat16": (_before("LayerNormalization", "input", stash_type=16), "inside"),
    "another library's operator": (_node("domain", "evil"), "another library"),
    "an unknown operator": (_node("op_type", "Exec"), "unknown operator"),
    **{
        f"{name} of ONNX Runtime's": (_of_ort(name), "ONNX Runtime that is not supported")
        for name in (
            "FusedConv",
            "Gelu",
            "SparseAttention",
            "Sampling",
            "WordConvEmbedding",
            "DecoderMaskedMultiHeadAttention",
            "Irfft",
            "CDist",
            "BeamSearch",
            "",
        )
    },
    "attention without heads": (_of_ort(), "other inputs"),
    "attention with many heads": (_of_ort(num_heads=2**31), "other inputs"),
    "attention with a cache": (_of_ort(inputs=7, num_heads=1), "other inputs"),
    "attention with one way": (_of_ort(num_heads=1, unidirectional=1), "other inputs"),
    "attention with infinite scores": (_of_ort(num_heads=1, scale=1e30), "a scale of"),
    "attention with no scores": (_of_ort(num_heads=1, scale=float("nan")), "a scale of"),
    **{
        name: (_before(name), f"an operator for {word}")
        for name, word in (
            ("RegexFullMatch", "text"),
            ("StringNormalizer", "text"),
            ("ImageDecoder", "image files"),
            ("SoftmaxCrossEntropyLoss", "training"),
        )
    },
    "dropout that drops": (_dropout, "training mode"),
    "dropout that may drop": (_before("Dropout", "", "input"), "training mode"),
    "a norm that learns": (_before("BatchNormalization", training_mode=1), "training mode"),
    "an input of 2^40": (_input_dim(2**40), "dimensions"),
    "a negative input": (_input_dim(-1), "dimensions"),
    "a sequence": (_sequence, "not a tensor"),
    "many nodes": (_many_nodes, "50002 nodes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_network_needs_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused for what it is, before anything opens or runs it."""
    monkeypatch.chdir(tmp_path)
    Path("w.bin").write_bytes(bytes(36))
    Path("link").symlink_to("/etc/passwd")
    change, word = REFUSED[kind]
    model = plain()
    change(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    with pytest.raises(RunError, match=word) as caught:
        read_onnx(path)
    assert str(caught.value).isprintable()


def test_the_plain_model_is_read_and_runs(tmp_path: Path) -> None:
    """What all these are made from is good."""
    path = tmp_path / "m.onnx"
    path.write_bytes(plain().SerializeToString())

    opened = open_onnx(read_onnx_file(path), OUTPUTS)

    picture = np.ones((1, 3, 5, 7), np.float32)
    assert opened.candidate.runner.infer({"input": picture})["output"].max() == 3


@pytest.mark.parametrize("domain", DOMAINS)
def test_known_libraries_are_read(domain: str, tmp_path: Path) -> None:
    """Models made for ONNX Runtime hold operators of its own."""
    model = plain()
    if domain == "com.microsoft":
        model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.node[0].domain = "" if domain == "com.microsoft" else domain
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    read_onnx(path)


def test_harmless_relatives_are_read(tmp_path: Path) -> None:
    """Dropout and norms as inference has them, and attention as exports use it."""
    model = plain()
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "training"))
    _before("Dropout", "", "training")(model)
    _of_ort(num_heads=4, scale=0.5)(model)
    model.graph.node[0].output[0] = "b"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    read_onnx(path)


# --- files --------------------------------------------------------------------------------

FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "folder": (Path.mkdir, "a directory"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "loop": (lambda path: path.symlink_to(path), "symbolic links"),
    "process": (lambda path: path.symlink_to("/proc/self/maps"), "does not hold"),
    "empty": (Path.touch, "self-contained|not an ONNX"),
    "large": (lambda path: os.truncate(path, 2**40) if path.touch() is None else 0, "at most"),
    "noise": (lambda path: path.write_bytes(bytes(range(256)) * 9), "not an ONNX|self-contained"),
    "depth": (lambda path: path.write_bytes(b"\x3a\xff\xff\xff\x7f" * 1000), "not an ONNX"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_model_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    """Pipes, devices, holes and noise end in one refusal."""
    make, word = FILES[kind]
    path = tmp_path / "m.onnx"
    make(path)

    with pytest.raises(RunError, match=word):
        read_onnx(path)


def test_a_short_file_that_parses_to_a_large_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bytes make a node: what parsing takes is limited, and the limit is lifted again."""
    from paragon_export.graph import onnx_io

    nodes = b"\x0a\x00" * 3_000_000
    graph = b"\x3a" + _varint(len(nodes)) + nodes
    path = tmp_path / "m.onnx"
    path.write_bytes(graph)
    monkeypatch.setattr(onnx_io, "MAX_READ_MEMORY_BYTES", 2**27)

    with pytest.raises(RunError):
        read_onnx(path)
    assert len(bytearray(2**28)) == 2**28


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


OUTPUTS = (Port("output", ("batch", 3, "height", "width")),)

# --- what a model takes when it runs ------------------------------------------------------


def _hungry(extent: int) -> bytes:
    """Return a model that expands its input to ``extent`` values."""
    expand = helper.make_node("Expand", ["input", "shape"], ["large"])
    least = helper.make_node("ReduceMin", ["large"], ["output"])
    return plain(expand, least, shape=whole(extent, 3, 1, 1)).SerializeToString()


@pytest.mark.parametrize("written", ["weight", "value", "value_ints"])
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_constant_that_asks_for_terabytes_is_refused(
    backend: OnnxBackend, written: str, tmp_path: Path
) -> None:
    """It is read in the file: not every runtime survives an allocation that fails."""
    path = tmp_path / "m.onnx"
    model = onnx.ModelProto.FromString(_hungry(2**38))
    if written != "weight":
        (shape,) = model.graph.initializer
        told = shape if written == "value" else numpy_helper.to_array(shape).tolist()
        model.graph.node.insert(0, helper.make_node("Constant", [], ["shape"], **{written: told}))
        del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())

    with pytest.raises(RunError, match="a value of gigabytes"):
        open_onnx(read_onnx_file(path), OUTPUTS, backend)


def test_limits_are_lifted_and_nest() -> None:
    """An inner limit is no wider than the outer one, and both are gone in the end."""
    with limits.limited_memory(2**28):
        with limits.limited_memory(2**40), pytest.raises(MemoryError):
            bytearray(2**30)
        with pytest.raises(MemoryError):
            bytearray(2**30)
    assert len(bytearray(2**29)) == 2**29
    with limits.limited_time(60, lambda: None):
        before = threading.active_count()
    time.sleep(0.05)
    assert threading.active_count() < before


def test_without_proc_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems do not tell what is taken."""
    monkeypatch.setattr(limits, "memory_taken", lambda: None)
    with limits.limited_memory(0):
        assert len(bytearray(2**26)) == 2**26


# --- what a model says of itself ----------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_realtime: Path, tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """Return an export of a tiny network, of one size."""
    path = tmp_path_factory.mktemp("exported") / "m.onnx"
    export(ExportPlan(checkpoint=tiny_realtime, output=path, static=Size(5, 7)))
    return onnx.load(path)


@pytest.mark.parametrize(
    "facts",
    [
        {"checkpoint": "/dev/zero"},
        {"checkpoint_sha256": "0" * 64, "checkpoint": "../../etc/passwd"},
        {"checkpoint_sha256": "0" * 64, "checkpoint": "a\0b\x1b[2J"},
        {"checkpoint_sha256": "0" * 64, "checkpoint": "n" * 5000},
        {"variant": "[/bold]\x07", "family": "\x1b[2J", "layout": "", "tool": "paragon-export"},
        {"their own": "[" * 5000, "names": "\x1b[2J", "window_size": "1e400"},
        {"tool": "another", "scale": "4x", "precision": "mixed", "classes": "a, b"},
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_metadata_is_words_and_nothing_else(
    facts: dict[str, str],
    as_json: bool,
    tmp_path: Path,
    tiny_realtime: Path,
    exported: onnx.ModelProto,
    run_here: RunHere,
) -> None:
    """Whatever a model says of itself, its verdict is given and the terminal gets plain text."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    told = {entry.key: entry.value for entry in model.metadata_props} | facts
    helper.set_model_props(model, told)
    onnx.save(model, tmp_path / "m.onnx")
    before = listing(tmp_path)

    shown = ["--json"] if as_json else []
    done = run_here("parity", tiny_realtime, "m.onnx", "--other-checkpoint", *shown)

    assert done.code == 0
    assert all(line.isprintable() for line in (done.stderr + done.stdout).split("\n"))
    assert not as_json or json.loads(done.stdout)["passed"]
    assert listing(tmp_path) == before


@pytest.mark.parametrize("names", [("in\x1b", "output"), ("input", "[/x]"), ("", ""), ("x", "y")])
def test_ports_of_other_names_are_quoted(
    names: tuple[str, str], tmp_path: Path, tiny_realtime: Path, run_here: RunHere
) -> None:
    """Names in a refusal are printable."""
    node = helper.make_node("Identity", [names[0]], [names[1]])
    model = plain(node)
    model.graph.input[0].name, model.graph.output[0].name = names
    model.graph.input.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, [1]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    done = run_here("parity", tiny_realtime, "m.onnx")

    assert_one_helpful_line(done, "m.onnx")
    assert done.stderr[:-1].isprintable()


def test_a_long_chain_of_casts_is_followed(tmp_path: Path) -> None:
    """How many IDs there are is looked for through any number of casts."""
    casts = [helper.make_node("Cast", [f"c{i}" if i else "input"], [f"c{i + 1}"], to=7)
             for i in range(3000)]  # fmt: skip
    gather = helper.make_node("Gather", ["table", "c3000"], ["output"])
    model = plain(*casts, gather, table=np.ones((40, 8), np.float32))
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("input", TensorProto.INT64, ["n", 16, 16])
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output", 1, ["n", 8]))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())

    assert ports_of(read_onnx(path))[0][0].span == (0, 39)


# --- drawn at random ----------------------------------------------------------------------


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False), structured=st.booleans())
def test_mutated_models_are_opened_or_refused(
    rng: random.Random, structured: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is changed, a model is opened and runs, or is refused in a line."""
    model = plain(
        helper.make_node("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("DepthToSpace", ["b"], ["output"], blocksize=2, mode="CRD"),
        w=np.ones((12, 3, 3, 3), np.float32),
    )
    mutate = mutate_onnx if structured else mutate_bytes
    path = tmp_path_factory.getbasetemp() / "m.onnx"
    path.write_bytes(mutate(rng, model.SerializeToString()))
    with suppress(ParagonExportError):
        opened = open_onnx(replace(read_onnx_file(path), is_own=True), OUTPUTS)
        opened.candidate.runner.infer({"input": np.ones((1, 3, 5, 7), np.float32)})


def test_what_a_library_logs_of_a_damaged_model_is_not_shown(
    exported: onnx.ModelProto, tmp_path: Path, tiny_realtime: Path, run_cli: RunCli
) -> None:
    """Shape inference that fails on a harmless fault logs a traceback; users get none."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    wrong = helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.INT64, [7])
    model.graph.value_info.append(wrong)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    done = run_cli("parity", tiny_realtime, "m.onnx")

    assert done.code in (0, 1, 3)
    assert "Traceback" not in done.stderr


def test_warnings_of_the_library_are_silenced_for_the_call_only(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without a handler Python prints warnings to stderr; the logger of an application stays."""
    logger = logging.getLogger("onnx_ir")
    before = list(logger.handlers)
    propagates, logger.propagate = logger.propagate, False  # away from the handlers of pytest
    try:
        with silenced_onnx_ir():
            logging.getLogger("onnx_ir.passes").warning("inside")
        assert logger.handlers == before
        logging.getLogger("onnx_ir.passes").warning("outside")
    finally:
        logger.propagate = propagates

    shown = capfd.readouterr().err
    assert "inside" not in shown
    assert "outside" in shown
