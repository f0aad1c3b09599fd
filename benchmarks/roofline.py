"""How close to the hardware's limits: multiply-adds and bytes of a graph against peak rates.

Multiply-adds are those of convolutions and matrix products, counted exactly from the shapes at one
size; other arithmetic is not counted. Bytes are counted in two ways. *Node by node*: every node
reads its inputs and weights from memory and writes its outputs, as if nothing were fused and no
cache were there. *At least*: the graph's inputs, outputs and weights once each.

The roofline is max(multiply-adds / peak rate, bytes node by node / bandwidth). It is no strict
limit: a runtime that fuses nodes or keeps tensors in a cache may beat it, which shows as a
fraction over 1. No runtime can be faster than the same figure with the bytes at least (all fused).
On this machine both rates are measured, in float32. For graphics cards they are published figures
and the milliseconds are computed in float16, not measured; no card was at hand.

Writes ``roofline_machine.json``, ``roofline.json`` and ``roofline_gpu.json``.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import onnx
import onnx.parser
import torch
import typer
from common import (
    MEASURED_AT,
    SCALES,
    SIZES,
    interleave,
    median,
    network,
    onnx_runtime,
    plain,
    random_picture,
    rewritten,
    write,
)

from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.types import Runtime, Size
from paragon_export.system.optional import import_without_telemetry

FRAME = Size(1080, 1920)
"""Input for which the graphics cards are computed."""


@dataclass(frozen=True)
class Rates:
    """What a machine can do at best."""

    gmac_per_s: float
    """Billions of multiply-adds a second; published figures count each as two operations."""
    gb_per_s: float


CARDS = {
    "RTX 3060": Rates(51.0e3 / 2, 360),
    "RTX 4090": Rates(330.3e3 / 2, 1008),
    "RTX 5090": Rates(419.0e3 / 2, 1792),
}
"""Dense float16 tensor-core rates with float16 sums, the fastest that float16 can run, and the
bandwidth of memory; with float32 sums all three cards do half as many multiply-adds.

The three rates are 512 multiply-adds a clock in each of 28, 128 and 170 multiprocessors at 1.777,
2.52 and 2.407 GHz. Published as: RTX 3060, 101 tensor TFLOPS with sparsity, which is twice the
dense rate, and 360 GB/s (NVIDIA, repeated by techtaks.com and pcpartdb.com); RTX 4090, 330.3 TFLOPS
and 1008 GB/s (NVIDIA Ada GPU architecture white paper, repeated by hmc-tech.com and waredb.com);
RTX 5090, 838 TFLOPS with sparsity and 1792 GB/s (NVIDIA RTX Blackwell GPU architecture white
paper, repeated by spheron.network and Linux Format, May 2025).
"""

VIEWS = frozenset({"Constant", "Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
"""Operators that move no data."""

PARTIAL_READS = frozenset({"Gather", "Slice"})
"""Operators that read no more than they return."""

IN_PLACE = frozenset({"ScatterElements"})
"""Operators that write their updates into their first input."""


@dataclass(frozen=True)
class Work:
    """What one run of a graph costs. Values are float32 or float16, the rest is indices."""

    macs: int
    values: int
    """Read and written node by node."""
    other_bytes: int
    least_values: int
    """Graph inputs, outputs and weights, once each."""

    def bytes_by_node(self, width: int) -> int:
        return self.values * width + self.other_bytes

    def bytes_at_least(self, width: int) -> int:
        return self.least_values * width


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: int

    @property
    def values(self) -> int:
        return math.prod(self.shape) if self.dtype == onnx.TensorProto.FLOAT else 0

    @property
    def other_bytes(self) -> int:
        if self.dtype == onnx.TensorProto.FLOAT:
            return 0
        return math.prod(self.shape) * onnx.helper.tensor_dtype_to_np_dtype(self.dtype).itemsize


def count(model: onnx.ModelProto, size: Size) -> Work:
    """Count the work of a float32 model with one image input, batch 1; ``model`` is changed.

    What depends on the size alone, such as indices and masks, is computed before it is counted.
    """
    onnxsim = import_without_telemetry("onnxsim")
    del model.graph.value_info[:]  # onnxsim would trust the symbols in them
    shape = [1, 3, size.height, size.width]
    fixed, _ = onnxsim.simplify(model, overwrite_input_shapes={"input": shape})
    return count_fixed(fixed)


def count_fixed(model: onnx.ModelProto) -> Work:
    """Count the work of a model in which every shape follows from constants.

    Raises:
        KeyError: If the shape of a tensor is not known; the tensor's name.
    """
    attending = _stand_in_for_attention(model)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    tensors = {w.name: _Tensor(tuple(w.dims), w.data_type) for w in graph.initializer}
    weights = set(tensors)
    for value in (*graph.input, *graph.output, *graph.value_info):
        told = value.type.tensor_type
        if told.HasField("shape") and all(d.HasField("dim_value") for d in told.shape.dim):
            shape = tuple(d.dim_value for d in told.shape.dim)
            tensors[value.name] = _Tensor(shape, told.elem_type)
    macs = values = other_bytes = 0
    for node in graph.node:
        read = [tensors[name] for name in node.input if name]
        made = [tensors[name] for name in node.output if name]
        if node.name in attending:  # queries by keys, and weights by values
            windows, tokens, channels = read[0].shape
            macs += 2 * windows * tokens**2 * channels
        macs += _macs(node, read, made[0])
        for tensor in _moved(node.op_type, read, made):
            values += tensor.values
            other_bytes += tensor.other_bytes
    ends = {*weights, *(v.name for v in (*graph.input, *graph.output))}
    return Work(macs, values, other_bytes, sum(tensors[name].values for name in ends))


def _stand_in_for_attention(model: onnx.ModelProto) -> set[str]:
    """Let a Max stand for ONNX Runtime's attention, whose shapes ``onnx`` cannot infer.

    Returns:
        Names of the nodes; a Max has the same operands and result, and no multiply-adds.
    """
    names = set()
    for node in model.graph.node:
        if node.op_type == "MultiHeadAttention":
            node.op_type, node.domain = "Max", ""
            del node.attribute[:], node.input[3:]
            names.add(node.name)
    return names


def _moved(operator: str, read: list[_Tensor], made: list[_Tensor]) -> Sequence[_Tensor]:
    if operator in VIEWS:
        return ()
    if operator in PARTIAL_READS:
        return (*made, *made)
    if operator in IN_PLACE:
        return (*read[1:], read[-1])
    return (*read, *made)


def _macs(node: onnx.NodeProto, read: list[_Tensor], made: _Tensor) -> int:
    results = math.prod(made.shape)
    match node.op_type:
        case "Conv":  # weight: output channels, input channels of a group, height, width
            return results * math.prod(read[1].shape[1:])
        case "ConvTranspose":  # weight: input channels, output channels of a group, height, width
            return math.prod(read[0].shape) * math.prod(read[1].shape[1:])
        case "MatMul":
            return results * read[0].shape[-1]
        case "Gemm":
            is_transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return results * read[0].shape[0 if is_transposed else -1]
    return 0


def check_count() -> None:
    """Compare with a 3x3 convolution of 8 to 4 channels on 5x7 pixels, counted by hand."""
    text = """<ir_version: 8, opset_import: ["" : 20]>
        hand (float[1,8,5,7] input, float[4,8,3,3] weight) => (float[1,4,5,7] output) {
            output = Conv <pads = [1,1,1,1]> (input, weight)
        }"""
    found = count_fixed(onnx.parser.parse_model(text))
    moved = 8 * 35 + 4 * 8 * 9 + 4 * 35
    expected = Work(macs=4 * 35 * 8 * 9, values=moved, other_bytes=0, least_values=moved)
    if found != expected:
        raise AssertionError(f"counted {found}, by hand {expected}")


def measure_machine(repetitions: int) -> Rates:
    """Measure the best rates of this machine.

    Arithmetic: the faster of a convolution and a matrix product in ONNX Runtime. Memory: a sum of
    two arrays in PyTorch; the result's memory is counted as written, not as read before.
    """
    text = """<ir_version: 8, opset_import: ["" : 20]>
        peak (float[1,64,256,256] input) => (float[1,64,256,256] output) {
            output = Conv <pads = [1,1,1,1]> (input, weight)
        }"""
    convolution = macs_per_second(text, (64, 64, 3, 3), 64 * 64 * 9 * 256 * 256, repetitions)
    text = """<ir_version: 8, opset_import: ["" : 20]>
        peak (float[2048,2048] input) => (float[2048,2048] output) {
            output = MatMul (input, weight)
        }"""
    product = macs_per_second(text, (2048, 2048), 2048**3, repetitions)

    one, other, total = (torch.ones(2**26) for _ in range(3))  # 268 MB each: beyond any cache
    moved = 3 * 4 * 2**26
    seconds = best_seconds(lambda: torch.add(one, other, out=total), repetitions)
    return Rates(max(convolution, product) / 1e9, moved / seconds / 1e9)


def macs_per_second(text: str, weight_shape: tuple[int, ...], macs: int, repetitions: int) -> float:
    """Return how fast ONNX Runtime is on a graph with an ``input`` and a constant ``weight``."""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    weight = rng.random(weight_shape, dtype=np.float32) / 64
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"input": rng.random(shape, dtype=np.float32)}
    session = OnnxRunner(model.SerializeToString()).session
    return macs / best_seconds(lambda: session.run(None, feeds), repetitions)


def best_seconds(run: Callable[[], object], repetitions: int) -> float:
    run()
    best = math.inf
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def limit_ms(macs: int, moved: int, rates: Rates) -> float:
    return max(macs / rates.gmac_per_s, moved / rates.gb_per_s) / 1e6


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Default: all four.")] = None,
    scales: Annotated[list[int] | None, typer.Option("--scale", help="Default: 2 and 4.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 5,
    repetitions: Annotated[int, typer.Option(min=1, help="For the machine's own peaks.")] = 20,
) -> None:
    check_count()
    machine = measure_machine(repetitions)
    rates = {"precision": "float32", "GMAC/s": machine.gmac_per_s, "GB/s": machine.gb_per_s}
    write("roofline_machine", [rates], ("precision",))
    for variant in variants or list(SIZES):
        for scale in scales or SCALES:
            module = network(variant, scale)
            here = measured_rows(variant, scale, module, machine, samples)
            write("roofline", here, ("variant", "scale", "graph"))
            cards = computed_rows(variant, scale, module)
            write("roofline_gpu", cards, ("variant", "scale", "card"))
            gc.collect()


def measured_rows(
    variant: str, scale: int, module: torch.nn.Module, machine: Rates, samples: int
) -> list[dict[str, Any]]:
    size = MEASURED_AT[variant]
    picture = random_picture(size)
    exports = {
        "plain": plain(module, scale),
        "rewritten": rewritten(module, scale, Runtime.ONNXRUNTIME),
    }
    taken = interleave({n: onnx_runtime(e, picture) for n, e in exports.items()}, samples)
    rows = []
    for name, exported in exports.items():
        work = count(onnx.load_from_string(exported.data), size)
        moved = work.bytes_by_node(4)
        limit, found = limit_ms(work.macs, moved, machine), median(taken[name])
        rows.append(
            {
                "variant": variant,
                "scale": scale,
                "size": str(size),
                "graph": name,
                "GMAC": work.macs / 1e9,
                "GB node by node": moved / 1e9,
                "GB at least": work.bytes_at_least(4) / 1e9,
                "roofline ms": limit,
                "measured ms": found,
                "of roofline": limit / found,
            }
        )
    return rows


def computed_rows(variant: str, scale: int, module: torch.nn.Module) -> list[dict[str, Any]]:
    before, after = (
        count(onnx.load_from_string(exported.data), FRAME)
        for exported in (plain(module, scale), rewritten(module, scale, Runtime.TENSORRT))
    )
    return [_card_row(variant, scale, card, before, after) for card in CARDS]


def _card_row(variant: str, scale: int, card: str, before: Work, after: Work) -> dict[str, Any]:
    rates = CARDS[card]
    unfused = "ms, nothing fused (computed, not measured)"
    fused = "ms, all fused (computed, not measured)"
    return {
        "variant": variant,
        "scale": scale,
        "input": str(FRAME),
        "card": card,
        f"plain {unfused}": limit_ms(before.macs, before.bytes_by_node(2), rates),
        f"rewritten {unfused}": limit_ms(after.macs, after.bytes_by_node(2), rates),
        f"rewritten {fused}": limit_ms(after.macs, after.bytes_at_least(2), rates),
    }


if __name__ == "__main__":
    typer.run(main)
