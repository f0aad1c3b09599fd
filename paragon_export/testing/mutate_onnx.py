"""Mutations of good ONNX files: fields, structure, metadata and ports. All are drawn from ``rng``."""

from __future__ import annotations

import json
import random
from typing import Any

from paragon_export.testing.mutate import NUMBERS, TEXTS, mutate_bytes, mutate_tree


def mutate_onnx(rng: random.Random, data: bytes) -> bytes:
    """Change fields of the protobuf message, those of the graph above all."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.5 and model.graph.node:
            _mutate_message(rng, rng.choice(model.graph.node))
        elif kind < 0.7:
            _mutate_message(rng, model.graph)
        elif kind < 0.85 and model.graph.initializer:
            _mutate_message(rng, rng.choice(model.graph.initializer))
        elif kind < 0.9:
            _mutate_onnx_structure(rng, model)
        else:
            _mutate_message(rng, model)
    return model.SerializeToString()


def _mutate_onnx_structure(rng: random.Random, model: Any) -> None:
    """Ask for what no served network needs."""
    from onnx import TensorProto, helper

    graph = model.graph
    nodes = list(graph.node)
    kind = rng.randrange(8)
    if kind == 0 and graph.initializer:
        weight = rng.choice(graph.initializer)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", rng.choice(("../../etc/passwd", "/etc/passwd", "w.bin"))),
                           ("offset", "0"), ("length", str(rng.choice(NUMBERS)))):  # fmt: skip
            weight.external_data.add(key=key, value=value)
    elif kind == 1:
        rng.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
    elif kind == 2:
        node = rng.choice(graph.node)
        node.op_type = rng.choice(("Loop", "Scan", "If", "Tile", "Expand", "Resize", "Range",
                                   "ConstantOfShape", "Pad", "Unique", "Erf", "Nonsense"))  # fmt: skip
    elif kind == 3:
        rng.choice(graph.node).domain = rng.choice(("ai.onnx.ml", "com.microsoft", "evil", "\x1b"))
    elif kind == 4:
        body = helper.make_graph(nodes[:2], "body", [], [])
        rng.choice(graph.node).attribute.append(helper.make_attribute("body", body))
    elif kind == 5:
        shape = [rng.choice((1, 2**20, 2**33, 2**40)) for _ in range(rng.randrange(1, 4))]
        graph.node.insert(0, helper.make_node("Constant", [], ["big"], value_ints=shape))
        graph.node.insert(1, helper.make_node("ConstantOfShape", ["big"], ["bigger"]))
        graph.output.append(helper.make_tensor_value_info("bigger", 1, None))
    elif kind == 6:
        entry = model.metadata_props.add()
        entry.key = rng.choice(("window", "smallest", "switches", "checkpoint", "is_picture"))
        entry.value = rng.choice(
            ("1000000000", "[" * 5000, "{}", '{"a": {"value": "\x1b[2J"}}', "NaN")
        )
    else:
        name = rng.choice((*graph.input, *graph.output))
        name.name = rng.choice(TEXTS[:-4]).encode("utf-8", "ignore").decode()


def _mutate_message(rng: random.Random, message: Any) -> None:
    """Change one field, or one in a message below."""
    fields = [f for f, _ in message.ListFields()] or list(message.DESCRIPTOR.fields)
    if rng.random() < 0.1:
        fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    value = getattr(message, field.name)
    if field.message_type is not None:
        _mutate_inner(rng, field, message, value)
        return
    if not field.is_repeated:
        new = _another_scalar(rng, field, value)
        setattr(message, field.name, new)
    elif value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        value[at] = _another_scalar(rng, field, value[at])
    elif rng.random() < 0.5:
        value.append(_another_scalar(rng, field, value[0] if value else None))
    elif value:
        del value[rng.randrange(len(value))]


def _mutate_inner(rng: random.Random, field: Any, message: Any, value: Any) -> None:
    if not field.is_repeated:
        _mutate_message(rng, value)
    elif not value:
        value.add()
    elif rng.random() < 0.6:
        _mutate_message(rng, rng.choice(value))
    elif rng.random() < 0.5:
        value.add().CopyFrom(rng.choice(value))
    else:
        del value[rng.randrange(len(value))]


def _another_scalar(rng: random.Random, field: Any, value: Any) -> Any:
    cpp = field.cpp_type
    if cpp == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return mutate_bytes(rng, value or b"\0\0\0\0")
        return rng.choice((*TEXTS, (value or "") + "x")).encode("utf-8", "ignore").decode()
    if cpp in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))
    if cpp == field.CPPTYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    bits = 31 if cpp in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32) else 63
    number = rng.choice((*NUMBERS, (value or 0) + 1, (value or 0) - 1))
    is_unsigned = cpp in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64)
    return max(0 if is_unsigned else -(2**bits), min(2**bits - 1, number))


def mutate_metadata(rng: random.Random, data: bytes) -> bytes:
    """Change one to three entries of what a good model says of itself; the graph stays good."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    props = {entry.key: entry.value for entry in model.metadata_props}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        name = rng.choice((*props, "window", "smallest", "switches", "checkpoint"))
        props[name] = _another_entry(rng, props.get(name, ""))
        if rng.random() < 0.1:
            del props[rng.choice(list(props))]
    onnx.helper.set_model_props(model, props)
    return model.SerializeToString()


def _another_entry(rng: random.Random, text: str) -> str:
    try:
        tree = json.loads(text)
    except ValueError:
        tree = text
    if rng.random() < 0.2:
        return rng.choice(("", "NaN", "1e400", "-Infinity", "[" * 5000, "{}", "null", "1" * 5000,
                           '{"a": 1, "a": 2}', '"' + "x" * 70_000 + '"', "\x1b[2J"))  # fmt: skip
    try:
        told = json.dumps(mutate_tree(rng, tree))
    except RecursionError:
        return "[" * 900
    return told.encode("utf-8", "ignore").decode()


def mutate_ports(rng: random.Random, data: bytes) -> bytes:
    """Change shape, rank, type or name of a good model's ports, or add some."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    ports = [*model.graph.input, *model.graph.output]
    for _ in range(rng.choice((1, 1, 1, 2))):
        port, kind = rng.choice(ports), rng.randrange(8)
        tensor = port.type.tensor_type
        if kind < 4 and tensor.shape.dim:
            dim = rng.choice(tensor.shape.dim)
            dim.dim_value = rng.choice((0, 1, 2, 3, 4, 5, 16, 256, 1000, 4096, 16384, 65536, 10**5,
                                        2**20, 2**31, 2**40))  # fmt: skip
        elif kind == 4:
            del tensor.shape.dim[rng.randrange(len(tensor.shape.dim) + 1) :]
        elif kind == 5:
            tensor.shape.dim.add(dim_param=rng.choice(("n", "", "batch", "\x1b[2J")))
        elif kind == 6:
            tensor.elem_type = rng.choice((1, 2, 6, 7, 8, 9, 10, 11, 16, 0, 99))
        else:
            extra = rng.choice((model.graph.input, model.graph.output)).add()
            extra.CopyFrom(port)
            extra.name = rng.choice(("prev_feat", "alpha", "feature_map", "output", "x", "input"))
    return model.SerializeToString()
