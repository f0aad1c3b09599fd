"""Checks of an ONNX model before a runtime opens it: it must be one self-contained graph.

An ONNX file can refer to other files, hold endless loops and call operators of other libraries. No
supported network needs any of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paragon_export.specs.network import MAX_CHANNELS, MAX_IMAGE_CHANNELS
from paragon_export.specs.plans import MAX_PIXELS
from paragon_export.specs.types import MAX_EXTENT_PX
from paragon_export.system.text import brief

if TYPE_CHECKING:
    import onnx

MAX_NODES = 50_000

MAX_DIMENSION = 2**20
"""Largest extent of an input or output along one axis."""

MAX_RANK = 8
"""Largest number of dimensions of an input or output."""

MAX_INPUT_VALUES = 2**28
"""Values of one item of an input, which takes four times as many bytes."""

MAX_GLYPH_VALUES = 2**16
"""Values of one item for a classifier, a grid or a cell. Many items are fed at a time."""

MAX_WEIGHTS_BYTES = 2**30

STANDARD_DOMAINS = ("", "ai.onnx")
"""Both names of the domain of the standard operators."""

DOMAINS = (*STANDARD_DOMAINS, "com.microsoft")
"""Operator domains that are accepted. Of the last, ONNX Runtime's, only ``ATTENTIONS`` are. Files
may import other domains of which they use no operator, as files that ONNX Runtime saved do."""

ATTENTIONS = frozenset({("com.microsoft", "MultiHeadAttention")})
"""Operators of ONNX Runtime that exports use. Inputs: queries, keys, values, optionally a bias."""

MAX_ATTENTION_INPUTS = 4

MAX_HEADS = 1024

MAX_ATTENTION_SCALE = 1000.0

MIN_OPSET, MIN_IR_VERSION = 7, 3

SIZE_INPUTS = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Pad": (1,), "Reshape": (1,),
           "Range": (0, 1, 2), "Resize": (2, 3), "Upsample": (1,), "OneHot": (1,),
           "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,), "AffineGrid": (1,),
           "CenterCropPad": (1,), "Col2Im": (1,), "MaxUnpool": (2,), "DFT": (1,),
           "MelWeightMatrix": (0, 1)}  # fmt: skip
"""Operators whose output size is the value of an input, and the positions of such inputs."""

MAX_SHAPE_ENTRIES = 64
"""Values of a constant that can be a shape."""

MAX_OUTPUT_VALUES = 2**28
"""Values of an output whose size is a constant of the graph."""

SPARSE = "sparse weights; store them as dense ones"

HALF_INSIDE = ("softmax_precision", "stash_type")
"""Attributes that name the type of the arithmetic inside an operator. ONNX Runtime computes in
float32 on a CPU whatever they say, so that no verdict would see what a GPU computes."""

SUBGRAPH_OPERATORS = ("Loop", "Scan", "If", "SequenceMap")

UNSUPPORTED_OPERATORS = {
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), "training"),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        "text",
    ),
    "ImageDecoder": "image files",
}  # fmt: skip
"""Standard operators that no image network needs, and what they are for.

Operators for random numbers are accepted: a model with noise fails its verdict, which names the
cause.
"""


def check_model(model: onnx.ModelProto) -> None:
    """Refuse a model that is not one graph of standard operators with all weights inside.

    Raises:
        ValueError: Naming what was found.
    """
    _check_versions(model)
    if model.functions or model.training_info:
        raise ValueError(
            "functions or training inside; export the plain network, or inline the functions "
            "(onnx.inliner.inline_local_functions)"
        )
    graph = model.graph
    if not graph.node:
        raise ValueError("an empty graph")
    if len(graph.node) > MAX_NODES:
        raise ValueError(f"{len(graph.node)} nodes; at most {MAX_NODES} are accepted")
    if graph.sparse_initializer:
        raise ValueError(SPARSE)
    _check_ports(graph)
    _check_weights(graph)
    _check_order(graph)
    _check_sizes(graph)


def _check_versions(model: onnx.ModelProto) -> None:
    import onnx

    if not MIN_IR_VERSION <= model.ir_version <= onnx.IR_VERSION:
        raise ValueError(
            f"IR version {model.ir_version}; {MIN_IR_VERSION} to {onnx.IR_VERSION} are accepted"
        )
    newest = onnx.defs.onnx_opset_version()
    versions = sorted({e.version for e in model.opset_import if e.domain in STANDARD_DOMAINS})
    if len(versions) != 1 or not MIN_OPSET <= versions[0] <= newest:
        raise ValueError(f"operator set {versions}; one of {MIN_OPSET} to {newest} is accepted")


def _check_ports(graph: onnx.GraphProto) -> None:
    """Refuse inputs and outputs that no supported network has, or that cannot be fed."""
    for port in [*graph.input, *graph.output]:
        if not port.type.HasField("tensor_type"):
            raise ValueError(f"port {brief(port.name)} is not a tensor")
        dims = _dims(port)
        if len(dims) > MAX_RANK or any(not 0 <= dim <= MAX_DIMENSION for dim in dims):
            raise ValueError(f"port {brief(port.name)} has dimensions {brief(dims)}")
    classifies = any(len(_dims(port)) == 2 for port in graph.output)
    weights = {tensor.name for tensor in graph.initializer}
    for port in graph.input:
        if port.name not in weights and not _can_be_fed(port.name, _dims(port), classifies):
            raise ValueError(
                f"input {brief(port.name)} of {' x '.join(str(dim or '?') for dim in _dims(port))}, "
                "which is larger than any supported network takes"
            )


def _dims(port: onnx.ValueInfoProto) -> list[int]:
    """Return the extents of an input or output; 0 where one is dynamic."""
    return [dim.dim_value for dim in port.type.tensor_type.shape.dim]


def _can_be_fed(name: str, dims: Sequence[int], classifies: bool) -> bool:
    """Return whether an input is small enough to be fed. An extent of 0 is a dynamic one."""
    values = math.prod(dim or 1 for dim in dims)
    if classifies:
        return values <= MAX_GLYPH_VALUES
    if len(dims) != 4:
        return values <= MAX_INPUT_VALUES
    channels, *extents = dims[1:]
    max_channels = MAX_IMAGE_CHANNELS if name == "input" else MAX_CHANNELS
    return (
        channels <= max_channels
        and max(extents) <= MAX_EXTENT_PX
        and values // max(channels, 1) <= MAX_PIXELS
        and values <= MAX_INPUT_VALUES
    )


def _check_weights(graph: onnx.GraphProto) -> None:
    names = [tensor.name for tensor in graph.initializer]
    if len(set(names)) != len(names):
        raise ValueError("two weights of one name")
    total = sum(check_tensor(tensor) for tensor in graph.initializer)
    if total > MAX_WEIGHTS_BYTES:
        raise ValueError(f"{total} bytes of weights; at most {MAX_WEIGHTS_BYTES} are accepted")


def check_tensor(tensor: onnx.TensorProto) -> int:
    """Return the size of a tensor in bytes.

    Raises:
        ValueError: If its data does not match its dimensions, is in another file, or is text.
    """
    import onnx

    name = brief(tensor.name)
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(
            f"weights of {name} in another file; save all in one: onnx.save(onnx.load(path), new_path)"
        )
    if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        raise ValueError(f"tensor {name} of text or of no type")
    if tensor.data_type not in onnx.TensorProto.DataType.values() or tensor.HasField("segment"):
        raise ValueError(f"tensor {name} of unknown type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > MAX_WEIGHTS_BYTES:
        raise ValueError(f"tensor {name} of dimensions {brief(list(tensor.dims))}")
    return onnx.numpy_helper.to_array(tensor).nbytes


def _check_order(graph: onnx.GraphProto) -> None:
    """Refuse values that are used before a node computes them, or computed twice.

    That refuses cycles too.
    """
    defined = {tensor.name for tensor in graph.initializer} | {port.name for port in graph.input}
    for node in graph.node:
        _check_node(node)
        unknown = [name for name in node.input if name and name not in defined]
        if unknown:
            raise ValueError(f"value {brief(unknown[0])} used before a node computes it")
        outputs = [name for name in node.output if name]
        if len(set(outputs)) != len(outputs) or not defined.isdisjoint(outputs):
            raise ValueError(f"value {brief(outputs[0])} computed twice")
        defined.update(outputs)
    missing = [port.name for port in graph.output if port.name not in defined]
    if missing:
        raise ValueError(f"output {brief(missing[0])} that no node computes")


def _check_sizes(graph: onnx.GraphProto) -> None:
    """Refuse constants that request a value of gigabytes.

    A size that is computed at run time is limited by the limits of the child process.
    """
    constants = {t.name: t for t in graph.initializer} | {
        node.output[0]: _constant(node.attribute[0])
        for node in graph.node
        if node.op_type == "Constant" and node.output and node.attribute
    }
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            _check_dropout(constants.get(node.input[2]))
        for position in SIZE_INPUTS.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            if name in constants and not _requested_values(constants[name]) <= MAX_OUTPUT_VALUES:
                raise ValueError(f"a value of gigabytes ({brief(node.op_type)})")


def _constant(attribute: onnx.AttributeProto) -> onnx.TensorProto:
    """Return the value of a ``Constant`` node from any of its attributes."""
    import numpy as np
    from onnx import numpy_helper

    if attribute.HasField("t"):
        return attribute.t
    numbers = [*attribute.ints, *attribute.floats] or [attribute.i or attribute.f]
    return numpy_helper.from_array(np.array(numbers, np.float64))


def _check_dropout(training: onnx.TensorProto | None) -> None:
    """Refuse dropout in training mode, or whose mode is not a constant."""
    from onnx import numpy_helper

    if training is None or numpy_helper.to_array(training).any():
        raise ValueError("an operator in training mode (Dropout)")


def _requested_values(tensor: onnx.TensorProto) -> float:
    """Return the number of values of the shape that a constant holds; 0 if it is no shape."""
    import onnx

    if math.prod(tensor.dims) > MAX_SHAPE_ENTRIES or not tensor.data_type:
        return 0.0
    values = onnx.numpy_helper.to_array(tensor).astype(float).ravel()
    return math.prod(max(1.0, abs(value)) for value in values.tolist())


def _check_node(node: onnx.NodeProto) -> None:
    import onnx

    if node.domain not in DOMAINS:
        raise ValueError(f"operators of another library ({brief(node.domain)})")
    if node.op_type in SUBGRAPH_OPERATORS or any(
        a.HasField("g") or a.graphs for a in node.attribute
    ):
        raise ValueError(
            f"a graph inside a graph ({brief(node.op_type)}); export the network without it, for "
            "example with constant conditions folded (onnxsim, or ONNX Runtime's basic optimizations)"
        )
    if node.domain == "com.microsoft":
        _check_attention(node)
    elif not onnx.defs.has(node.op_type):
        raise ValueError(f"an unknown operator {brief(node.op_type)}")
    elif node.op_type in UNSUPPORTED_OPERATORS:
        purpose = UNSUPPORTED_OPERATORS[node.op_type]
        raise ValueError(f"an operator for {purpose} ({node.op_type})")
    _check_attributes(node)


def _check_attributes(node: onnx.NodeProto) -> None:
    """Refuse training, arithmetic of another type inside an operator, and tensors that are not dense."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == "training_mode" and attribute.i:
            raise ValueError(f"an operator in training mode ({brief(node.op_type)})")
        if attribute.name in HALF_INSIDE and attribute.i not in (0, onnx.TensorProto.FLOAT):
            raise ValueError(
                f"an operator that computes in another type inside ({brief(node.op_type)}, "
                f"{attribute.name} {attribute.i}), which a CPU does not show; set it to 1 (float32)"
            )
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ValueError(SPARSE)
        for tensor in _tensors(attribute):
            check_tensor(tensor)


def _check_attention(node: onnx.NodeProto) -> None:
    """Refuse every operator of ONNX Runtime, except attention as exports use it."""
    if (node.domain, node.op_type) not in ATTENTIONS:
        raise ValueError(
            f"an operator of ONNX Runtime that is not supported ({brief(node.op_type)})"
        )
    attributes = {attribute.name: attribute for attribute in node.attribute}
    heads = attributes["num_heads"].i if "num_heads" in attributes else 0
    scale = attributes["scale"].f if "scale" in attributes else 1.0
    is_plain = set(attributes) <= {"num_heads", "scale"} and len(node.output) == 1
    if not is_plain or not len(node.input) <= MAX_ATTENTION_INPUTS or not 1 <= heads <= MAX_HEADS:
        raise ValueError(f"{node.op_type} with other inputs or attributes than in exports")
    if not abs(scale) <= MAX_ATTENTION_SCALE:
        raise ValueError(f"{node.op_type} with a scale of {scale:g}")


def _tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
