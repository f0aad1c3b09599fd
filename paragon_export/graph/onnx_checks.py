"""Check: an ONNX model is refused before anything opens it unless it is plain and whole.

ONNX can ask for files elsewhere, for loops that never end and for operators from other libraries.
No network that is served needs any of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paragon_export.specs.network import MAX_CHANNELS, MAX_IMAGE_CHANNELS
from paragon_export.specs.plans import MAX_STATIC_PIXELS
from paragon_export.specs.types import MAX_EXTENT_PX
from paragon_export.system.text import brief

if TYPE_CHECKING:
    import onnx

MAX_NODES = 50_000

MAX_DIMENSION = 2**20
"""Of an input or output."""

MAX_DIMENSIONS = 8

MAX_VALUES = 2**28
"""Of one item of an input: what is fed to it takes four times as many bytes."""

MAX_GLYPH_VALUES = 2**16
"""Of one item for a classifier: a grid or a cell. Many are fed at a time."""

MAX_WEIGHTS_BYTES = 2**30

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""The last is ONNX Runtime's own, of which only ``ATTENTIONS`` are read."""

ATTENTIONS = frozenset({("com.microsoft", "MultiHeadAttention")})
"""Operators of ONNX Runtime's own that exports use: queries, keys, values and perhaps a bias."""

MAX_ATTENTION_INPUTS = 4

MAX_HEADS = 1024

MAX_ATTENTION_SCALE = 1000.0

MIN_OPSET, MIN_IR_VERSION = 7, 3

GROWING = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Pad": (1,), "Reshape": (1,),
           "Range": (0, 1, 2), "Resize": (2, 3), "Upsample": (1,), "OneHot": (1,),
           "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "AffineGrid": (1,),
           "CenterCropPad": (1,), "Col2Im": (1,), "MaxUnpool": (2,), "DFT": (1,),
           "MelWeightMatrix": (0, 1)}  # fmt: skip
"""Operators whose output is as large as an input says, and which input that is."""

MAX_SHAPE_ENTRIES = 64
"""Values of a constant that can be a shape."""

MAX_GROWTH = 2**28
"""Elements that a constant may ask for."""

LOOPS = ("Loop", "Scan", "If", "SequenceMap")

BARRED = {
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), "training"),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        "text",
    ),
    "ImageDecoder": "pictures in files",
}  # fmt: skip
"""Standard operators that no network needs which maps pictures to pictures, and what they are for.

Operators for random numbers are read: noise that an export left in is a failed verdict, with a name.
"""


def check_model(model: onnx.ModelProto) -> None:
    """Refuse a model that is not one plain graph with all its weights inside.

    Raises:
        ValueError: Saying what was found.
    """
    _check_versions(model)
    if model.functions or model.training_info:
        raise ValueError("functions or training inside; export the plain network")
    graph = model.graph
    if not graph.node:
        raise ValueError("an empty graph")
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"{len(graph.node)} nodes; at most {MAX_NODES} are read")
    if graph.sparse_initializer:
        raise ValueError("sparse weights")
    _check_ports(graph)
    _check_weights(graph)
    _check_order(graph)
    _check_growth(graph)


def _check_versions(model: onnx.ModelProto) -> None:
    import onnx

    if not MIN_IR_VERSION <= model.ir_version <= onnx.IR_VERSION:
        raise ValueError(
            f"IR version {model.ir_version}; {MIN_IR_VERSION} to {onnx.IR_VERSION} are read"
        )
    domains = [entry.domain for entry in model.opset_import]
    foreign = [domain for domain in domains if domain not in DOMAINS]
    if foreign:
        raise ValueError(f"operators of another library ({brief(foreign[0])})")
    newest = onnx.defs.onnx_opset_version()
    versions = [e.version for e in model.opset_import if e.domain != "com.microsoft"]
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= newest:
        raise ValueError(f"operator set {versions}; one of {MIN_OPSET} to {newest} is read")


def _check_ports(graph: onnx.GraphProto) -> None:
    """Refuse ports that nothing could be fed to, or that no network that is served has."""
    for port in [*graph.input, *graph.output]:
        if not port.type.HasField("tensor_type"):
            raise ValueError(f"port {brief(port.name)} is no tensor")
        dims = _dims(port)
        if len(dims) > MAX_DIMENSIONS or any(not 0 <= dim <= MAX_DIMENSION for dim in dims):
            raise ValueError(f"port {brief(port.name)} has dimensions {brief(dims)}")
    classifies = any(len(_dims(port)) == 2 for port in graph.output)
    weights = {tensor.name for tensor in graph.initializer}
    for port in graph.input:
        if port.name not in weights and not _can_be_fed(port.name, _dims(port), classifies):
            raise ValueError(
                f"input {brief(port.name)} of {' x '.join(str(dim or '?') for dim in _dims(port))}, "
                "which is larger than any network that is served takes"
            )


def _dims(port: onnx.ValueInfoProto) -> list[int]:
    """Return the extents of a port; 0 where one is not fixed."""
    return [dim.dim_value for dim in port.type.tensor_type.shape.dim]


def _can_be_fed(name: str, dims: Sequence[int], classifies: bool) -> bool:
    """Tell whether an input of these extents, 0 where not fixed, is one that can be probed."""
    values = math.prod(dim or 1 for dim in dims)
    if classifies:
        return values <= MAX_GLYPH_VALUES
    if len(dims) != 4:
        return values <= MAX_VALUES
    channels, *extents = dims[1:]
    most = MAX_IMAGE_CHANNELS if name == "input" else MAX_CHANNELS
    return (
        channels <= most
        and max(extents) <= MAX_EXTENT_PX
        and values // max(channels, 1) <= MAX_STATIC_PIXELS
        and values <= MAX_VALUES
    )


def _check_weights(graph: onnx.GraphProto) -> None:
    names = [tensor.name for tensor in graph.initializer]
    if len(set(names)) != len(names):
        raise ValueError("weights that are there twice under one name")
    total = sum(check_tensor(tensor) for tensor in graph.initializer)
    if total > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{total} bytes of weights; at most {MAX_WEIGHTS_BYTES} are read")


def check_tensor(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor that holds exactly what its dimensions say.

    Raises:
        ValueError: If it does not, lies in another file, or holds text.
    """
    import onnx

    name = brief(tensor.name)
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"weights of {name} in another file")
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        raise ValueError(f"tensor {name} of text or of no type")
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.HasField("segment"):
        raise ValueError(f"tensor {name} of unknown type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > MAX_WEIGHTS_BYTES:
        raise ValueError(f"tensor {name} of dimensions {brief(list(tensor.dims))}")
    return onnx.numpy_helper.to_array(tensor).nbytes


def _check_order(graph: onnx.GraphProto) -> None:
    """Refuse values that nothing has made yet, or that are made twice: cycles among them."""
    known = {tensor.name for tensor in graph.initializer} | {port.name for port in graph.input}
    for node in graph.node:
        _check_node(node)
        unknown = [name for name in node.input if name and name not in known]
        if unknown:
            raise ValueError(f"value {brief(unknown[0])} used before a node makes it")
        made = [name for name in node.output if name]
        if len(set(made)) != len(made) or not known.isdisjoint(made):
            raise ValueError(f"value {brief(made[0])} made twice")
        known.update(made)
    missing = [port.name for port in graph.output if port.name not in known]
    if missing:
        raise ValueError(f"output {brief(missing[0])} that no node makes")


def _check_growth(graph: onnx.GraphProto) -> None:
    """Refuse constants that ask for gigabytes; what is computed is limited when it is run."""
    constants = {t.name: t for t in graph.initializer} | {
        node.output[0]: _constant(node.attribute[0])
        for node in graph.node
        if node.op_type == "Constant" and node.output and node.attribute
    }
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            _check_dropout(constants.get(node.input[2]))
        for position in GROWING.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            if name in constants and not _asked(constants[name]) <= MAX_GROWTH:
                raise ValueError(f"a value of gigabytes ({brief(node.op_type)})")


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    """Return the value of a constant, in whichever way it is written."""
    import numpy as np
    from onnx import numpy_helper

    if attribute.HasField("t"):
        return attribute.t
    numbers = [*attribute.ints, *attribute.floats] or [attribute.i or attribute.f]
    return numpy_helper.from_array(np.array(numbers, np.float64))


def _check_dropout(training: onnx.TensorProto | None) -> None:
    """Refuse dropout that drops anything, or may."""
    from onnx import numpy_helper

    if training is None or numpy_helper.to_array(training).any():
        raise ValueError("an operator in training mode (Dropout)")


def _asked(tensor: onnx.TensorProto) -> float:
    import onnx

    if math.prod(tensor.dims) > MAX_SHAPE_ENTRIES or not tensor.data_type:
        return 0.0
    values = onnx.numpy_helper.to_array(tensor).astype(float).ravel()
    return math.prod(max(1.0, abs(value)) for value in values.tolist())


def _check_node(node: onnx.NodeProto) -> None:
    import onnx

    if node.domain not in DOMAINS:
        raise ValueError(f"operators of another library ({brief(node.domain)})")
    if node.op_type in LOOPS or any(a.HasField("g") or a.graphs for a in node.attribute):
        raise ValueError(f"a graph inside a graph ({brief(node.op_type)})")
    if node.domain == "com.microsoft":
        _check_attention(node)
    elif not onnx.defs.has(node.op_type):
        raise ValueError(f"an unknown operator {brief(node.op_type)}")
    elif node.op_type in BARRED:
        raise ValueError(f"an operator for {BARRED[node.op_type]} ({node.op_type})")
    for attribute in node.attribute:
        if attribute.name == "training_mode" and attribute.i:
            raise ValueError(f"an operator in training mode ({brief(node.op_type)})")
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ValueError("sparse weights")
        for tensor in _tensors(attribute):
            check_tensor(tensor)


def _check_attention(node: onnx.NodeProto) -> None:
    """Refuse operators of ONNX Runtime's own but attention as exports use it."""
    if (node.domain, node.op_type) not in ATTENTIONS:
        raise ValueError(
            f"an operator of ONNX Runtime's own that is not read ({brief(node.op_type)})"
        )
    told = {attribute.name: attribute for attribute in node.attribute}
    heads = told["num_heads"].i if "num_heads" in told else 0
    scale = told["scale"].f if "scale" in told else 1.0
    plain = set(told) <= {"num_heads", "scale"} and len(node.output) == 1
    if not plain or not len(node.input) <= MAX_ATTENTION_INPUTS or not 1 <= heads <= MAX_HEADS:
        raise ValueError(f"{node.op_type} with other inputs or attributes than exports have")
    if not abs(scale) <= MAX_ATTENTION_SCALE:
        raise ValueError(f"{node.op_type} with a scale of {scale:g}")


def _tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
