"""Lowerings of layers: convolution, norms, pooling, activations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import nn

from paragon_export.graph.emitter import GELU_OPSET, Emitter, Operand, Weight, cannot_lower
from paragon_export.graph.lowerings import arithmetic
from paragon_export.graph.lowerings.reductions import picture_mean
from paragon_export.graph.lowerings.shapes import Shape, interpolate, pad
from paragon_export.graph.metadata import FLOAT32_MARK, OWN_PRECISION


def conv2d(g: Emitter, module: nn.Conv2d, name: str, x: Operand) -> ir.Value:
    """Emit ``Conv``, behind ``Pad`` if the padding is not zeros. Padding must be in numbers."""
    if isinstance(module.padding, str):
        raise cannot_lower(f"{name} with padding {module.padding}", "padding in numbers")
    pads = [*module.padding, *module.padding]
    if module.padding_mode != "zeros":
        x = pad(g, g.tensor(x), module._reversed_padding_repeated_twice, module.padding_mode)
        pads = [0] * 4
    return g.op(
        "Conv",
        x,
        *_weights(module, name),
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=pads,
        dilations=list(module.dilation),
        group=module.groups,
    )


def _weights(module: nn.Conv2d | nn.ConvTranspose2d, name: str) -> list[Weight]:
    """Return the kernel and, if there is one, the bias."""
    weights = [Weight(f"{name}.weight", module.weight.detach())]
    if module.bias is not None:
        weights.append(Weight(f"{name}.bias", module.bias.detach()))
    return weights


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


def prelu(g: Emitter, module: nn.PReLU, name: str, x: Operand) -> ir.Value:
    """Emit ``PRelu`` with a slope for each channel."""
    slopes = module.weight.detach().reshape(-1, 1, 1)
    return g.op("PRelu", x, Weight(f"{name}.weight", slopes))


def silu(g: Emitter, x: ir.Value, inplace: bool = False) -> ir.Value:
    """Emit ``x * sigmoid(x)``. ``inplace`` has no effect."""
    return g.op("Mul", x, g.op("Sigmoid", x))


def relu(g: Emitter, x: ir.Value, inplace: bool = False) -> ir.Value:
    """Emit ``Relu``. ``inplace`` has no effect."""
    return g.op("Relu", x)


def conv_transpose2d(g: Emitter, module: nn.ConvTranspose2d, name: str, x: Operand) -> ir.Value:
    """Emit ``ConvTranspose``."""
    if isinstance(module.padding, str):
        raise cannot_lower(f"{name} with padding {module.padding}", "padding in numbers")
    return g.op(
        "ConvTranspose",
        x,
        *_weights(module, name),
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
        output_padding=list(module.output_padding),
        dilations=list(module.dilation),
        group=module.groups,
    )


def upsample(g: Emitter, module: nn.Upsample, name: str, x: Any) -> ir.Value:
    """Emit nearest or bilinear upsampling by an integer factor."""
    return interpolate(
        g, x, module.size, module.scale_factor, module.mode, align_corners=module.align_corners
    )


def adaptive_average(g: Emitter, module: nn.AdaptiveAvgPool2d, name: str, x: Any) -> ir.Value:
    """Emit the mean of every channel over the picture, (N, C, 1, 1)."""
    if module.output_size not in (1, (1, 1)):
        raise cannot_lower(f"{name}: {module}", "adaptive pooling to one value")
    return average_of_picture(g, x)


def average_of_picture(g: Emitter, x: ir.Value) -> ir.Value:
    """Emit the mean of every channel over the picture, (N, C, 1, 1)."""
    shape = Shape(g, x)
    mean = picture_mean(g, x, shape[2], shape[3])
    with g.float32():
        mean = g.op("Unsqueeze", mean, g.ints([2, 3]))
    g.extents.declare(mean, x, axes=(0, 1))
    return mean


def mean(g: Emitter, x: ir.Value, dim: Any, keepdim: bool = False) -> ir.Value:
    """Emit the mean over the picture if the axes are those of a picture, else ``ReduceMean``."""
    if keepdim and not isinstance(dim, int) and tuple(dim) in ((2, 3), (-2, -1)):
        return average_of_picture(g, x)
    return arithmetic.mean(g, x, dim, keepdim)


def conv2d_function(
    g: Emitter,
    x: Operand,
    weight: Weight,
    bias: Weight | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> ir.Value:
    """Emit ``Conv`` with weights of the network."""
    if not isinstance(weight, Weight) or isinstance(padding, str):
        raise cannot_lower("a convolution with computed weights or named padding", "fixed ones")
    strides, pads, dilations = (
        [a, a] if isinstance(a, int) else list(a) for a in (stride, padding, dilation)
    )
    return g.op(
        "Conv",
        x,
        *[operand for operand in (weight, bias) if operand is not None],
        kernel_shape=list(weight.tensor.shape[2:]),
        strides=strides,
        pads=pads * 2,
        dilations=dilations,
        group=groups,
    )


def pixel_unshuffle(g: Emitter, x: Operand, downscale_factor: int) -> ir.Value:
    """Emit the inverse of ``DepthToSpace``. ``SpaceToDepth`` has another order of channels."""
    factor = downscale_factor
    shape = Shape(g, g.tensor(x))
    channels = shape[1]
    if not isinstance(channels, int):
        raise cannot_lower("pixel_unshuffle of a map of unknown depth", "a known depth")
    x = g.op("SpaceToDepth", x, blocksize=factor)
    order = np.arange(channels * factor**2).reshape(factor**2, channels).T.reshape(-1)
    return g.op("Gather", x, g.constant(f"unshuffle_{channels}_{factor}", order), axis=1)


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


def group_norm(g: Emitter, module: nn.GroupNorm, name: str, x: Any) -> ir.Value:
    """Emit ``InstanceNormalization`` of groups of channels. Runtimes add up in float32 there."""
    shape = Shape(g, x)
    groups = module.num_groups
    ones = g.constant(f"ones_{groups}", np.ones(groups, np.float32))
    zeros = g.constant(f"zeros_{groups}", np.zeros(groups, np.float32))
    grouped = g.op("Reshape", x, g.ints([0, groups, -1]))
    normed = g.op("InstanceNormalization", grouped, ones, zeros, epsilon=module.eps)
    node = normed.producer()
    assert node is not None
    node.metadata_props[FLOAT32_MARK] = OWN_PRECISION
    y = g.op("Reshape", normed, g.ints([shape[i] for i in range(4)]))
    for op_type, leaf in (("Mul", "weight"), ("Add", "bias")):
        values = getattr(module, leaf).detach().reshape(-1, 1, 1)
        y = g.op(op_type, y, Weight(f"{name}.{leaf}", values))
    g.extents.declare(y, x, axes=range(4))
    return y


def max_pool(g: Emitter, module: nn.MaxPool2d, name: str, x: Operand) -> ir.Value:
    """Emit ``MaxPool`` over squares, without padding or dilation."""
    if module.return_indices:
        raise cannot_lower(f"{name}: {module}", "max pooling without indices")
    return max_pool_function(
        g, x, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode
    )


def max_pool_function(
    g: Emitter,
    x: Operand,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> ir.Value:
    """Emit ``MaxPool`` over squares, without padding or dilation."""
    stride = kernel_size if stride is None else stride
    plain = not padding and dilation == 1 and not ceil_mode
    if not plain or not all(isinstance(size, int) for size in (kernel_size, stride)):
        raise cannot_lower(
            f"max pooling over {kernel_size} with stride {stride}, padding {padding} and dilation "
            f"{dilation}",
            "square max pooling without padding",
        )
    return g.op("MaxPool", x, kernel_shape=[kernel_size, kernel_size], strides=[stride, stride])


def embedding(g: Emitter, ids: ir.Value, table: Weight, **_: Any) -> ir.Value:
    """Emit ``Gather``: for every ID its row of the table."""
    return g.op("Gather", table, ids, axis=0)
