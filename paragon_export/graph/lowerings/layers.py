"""Lowerings of layers: convolution, norms, pooling, activations."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from torch import nn

from paragon_export.graph.emitter import GELU_OPSET, Emitter, Operand, Weight, cannot_lower


def conv2d(g: Emitter, module: nn.Conv2d, name: str, x: Operand) -> ir.Value:
    """Emit ``Conv``. Padding must be explicit zeros."""
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise cannot_lower(
            f"{name} with padding mode {module.padding_mode} and padding {module.padding}",
            "explicit zero padding",
        )
    weights = [Weight(f"{name}.weight", module.weight.detach())]
    if module.bias is not None:
        weights.append(Weight(f"{name}.bias", module.bias.detach()))
    return g.op(
        "Conv",
        x,
        *weights,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
        dilations=list(module.dilation),
        group=module.groups,
    )


def linear(g: Emitter, module: nn.Linear, name: str, x: Operand) -> ir.Value:
    """Emit ``MatMul`` and, with a bias, ``Add``."""
    y = g.op("MatMul", x, Weight(f"{name}.weight.T", module.weight.detach().T))
    return (
        y if module.bias is None else g.op("Add", y, Weight(f"{name}.bias", module.bias.detach()))
    )


def gelu(g: Emitter, x: ir.Value, approximate: str = "none") -> ir.Value:
    """Emit ``x / 2 * (1 + erf(x / sqrt 2))``, as one operator where the operator set has it."""
    if approximate != "none":
        raise cannot_lower(f"GELU with approximate={approximate!r}", "the exact GELU")
    if g.opset >= GELU_OPSET:
        return g.op("Gelu", x)
    erf = g.op("Erf", g.op("Mul", x, math.sqrt(0.5)))
    return g.op("Mul", g.op("Mul", x, 0.5), g.op("Add", erf, 1.0))


def leaky_relu(
    g: Emitter, x: ir.Value, negative_slope: float = 0.01, inplace: bool = False
) -> ir.Value:
    """Emit ``LeakyRelu``. ``inplace`` has no effect."""
    return g.op("LeakyRelu", x, alpha=float(negative_slope))


def pixel_shuffle(g: Emitter, module: nn.PixelShuffle, name: str, x: Operand) -> ir.Value:
    """Emit ``DepthToSpace``."""
    return g.op("DepthToSpace", x, blocksize=module.upscale_factor, mode="CRD")


def batch_norm(g: Emitter, module: nn.BatchNorm2d, name: str, x: Operand) -> ir.Value:
    """Emit ``BatchNormalization`` with the running statistics."""
    weights = [
        Weight(f"{name}.{leaf}", getattr(module, leaf).detach())
        for leaf in ("weight", "bias", "running_mean", "running_var")
    ]
    return g.op("BatchNormalization", x, *weights, epsilon=module.eps)


def layer_norm(g: Emitter, module: nn.LayerNorm, name: str, x: Operand) -> ir.Value:
    """Emit ``LayerNormalization`` over the last axes."""
    weights = [
        Weight(f"{name}.{leaf}", getattr(module, leaf).detach()) for leaf in ("weight", "bias")
    ]
    return g.op(
        "LayerNormalization", x, *weights, axis=-len(module.normalized_shape), epsilon=module.eps
    )


def max_pool(g: Emitter, module: nn.MaxPool2d, name: str, x: Operand) -> ir.Value:
    """Emit ``MaxPool`` over squares, without padding or dilation."""
    sizes = module.kernel_size, module.stride
    if (
        module.padding
        or module.dilation != 1
        or module.ceil_mode
        or not all(isinstance(size, int) for size in sizes)
    ):
        raise cannot_lower(f"{name}: {module}", "square max pooling without padding")
    kernel, stride = sizes
    return g.op("MaxPool", x, kernel_shape=[kernel, kernel], strides=[stride, stride])


def embedding(g: Emitter, ids: ir.Value, table: Weight, **_: Any) -> ir.Value:
    """Emit ``Gather``: for every ID its row of the table."""
    return g.op("Gather", table, ids, axis=0)
