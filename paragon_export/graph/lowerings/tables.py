"""The tables of lowerings: one row for each PyTorch call that can be exported."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional as F

from paragon_export.graph.lowerings import arithmetic, attention, layers, reductions, shapes
from paragon_export.graph.spectrum import lower_spectrum
from paragon_export.networks import ops

MODULES: Mapping[type, Callable[..., Any]] = {
    nn.Conv2d: layers.conv2d,
    nn.Linear: layers.linear,
    nn.BatchNorm2d: layers.batch_norm,
    nn.LayerNorm: layers.layer_norm,
    nn.GroupNorm: layers.group_norm,
    nn.MaxPool2d: layers.max_pool,
    nn.Flatten: lambda g, module, name, x: g.op("Flatten", x, axis=module.start_dim),
    nn.GELU: lambda g, module, name, x: layers.gelu(g, x, module.approximate),
    nn.Sigmoid: lambda g, module, name, x: g.op("Sigmoid", x),
    nn.ReLU: lambda g, module, name, x: g.op("Relu", x),
    nn.LeakyReLU: lambda g, module, name, x: layers.leaky_relu(g, x, module.negative_slope),
    nn.PReLU: layers.prelu,
    nn.SiLU: lambda g, module, name, x: layers.silu(g, x),
    nn.Mish: lambda g, module, name, x: g.op("Mish", x),
    nn.Tanh: lambda g, module, name, x: g.op("Tanh", x),
    nn.Softmax: lambda g, module, name, x: g.op("Softmax", x, axis=module.dim),
    nn.ConvTranspose2d: layers.conv_transpose2d,
    nn.Upsample: layers.upsample,
    nn.AdaptiveAvgPool2d: layers.adaptive_average,
    nn.Hardswish: lambda g, module, name, x: g.op("HardSwish", x),
    nn.PixelShuffle: layers.pixel_shuffle,
    nn.PixelUnshuffle: lambda g, module, name, x: layers.pixel_unshuffle(
        g, x, module.downscale_factor
    ),
    nn.Identity: lambda g, module, name, x: x,
    nn.Dropout: lambda g, module, name, x: x,
    nn.Dropout2d: lambda g, module, name, x: x,
}
"""Modules that PyTorch's tracer does not enter. A lowering takes the module and its path."""


FUNCTIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    operator.add: arithmetic.elementwise("Add", operator.add),
    operator.sub: arithmetic.elementwise("Sub", operator.sub),
    operator.mul: arithmetic.elementwise("Mul", operator.mul),
    operator.truediv: arithmetic.elementwise("Div", operator.truediv),
    operator.floordiv: arithmetic.elementwise("Div", operator.floordiv),
    operator.matmul: lambda g, a, b: g.op("MatMul", a, b),
    operator.eq: arithmetic.compare("Equal"),
    operator.lt: arithmetic.compare("Less"),
    operator.mod: arithmetic.remainder,
    operator.neg: arithmetic.negative,
    torch.add: arithmetic.elementwise("Add", operator.add),
    torch.mul: arithmetic.elementwise("Mul", operator.mul),
    torch.where: arithmetic.where,
    torch.sym_max: arithmetic.larger,
    operator.getitem: shapes.getitem,
    getattr: shapes.getattr_,
    torch.sqrt: lambda g, x: g.op("Sqrt", x),
    torch.sigmoid: lambda g, x: g.op("Sigmoid", x),
    torch.tanh: lambda g, x: g.op("Tanh", x),
    torch.relu: layers.relu,
    torch.maximum: lambda g, a, b: g.op("Max", a, b),
    torch.clamp: arithmetic.clamp,
    torch.log: lambda g, x: g.op("Log", x),
    torch.softmax: arithmetic.softmax,
    torch.roll: shapes.roll,
    torch.mean: layers.mean,
    torch.sum: arithmetic.sum_,
    torch.cat: shapes.cat,
    torch.chunk: shapes.chunk,
    torch.split: shapes.split,
    torch.flatten: shapes.flatten,
    torch.repeat_interleave: shapes.repeat_interleave,
    torch.pixel_unshuffle: layers.pixel_unshuffle,
    F.gelu: layers.gelu,
    F.embedding: layers.embedding,
    F.conv2d: layers.conv2d_function,
    F.relu: layers.relu,
    F.silu: layers.silu,
    F.interpolate: shapes.interpolate,
    F.max_pool2d: layers.max_pool_function,
    F.pad: shapes.pad,
    torch.index_select: shapes.index_select,
    ops.numbers: arithmetic.numbers,
    ops.positions: arithmetic.positions,
    ops.floating: lambda g, x, like: g.op("Cast", x, to=ir.DataType.FLOAT.value),
    ops.spectrum: lower_spectrum,
    ops.set_edges: attention.set_edges,
    ops.outermost: attention.outermost,
    ops.multi_head_attention: attention.multi_head_attention,
    ops.single_head_attention: attention.single_head_attention,
    ops.padding_penalty: attention.padding_penalty,
    ops.shift_penalty: attention.shift_penalty,
    ops.picture_mean: reductions.picture_mean,
    ops.reflected: arithmetic.reflected,
    ops.with_part: shapes.with_part,
    ops.sized_like: shapes.sized_like,
    F.leaky_relu: layers.leaky_relu,
    F.mish: lambda g, x, inplace=False: g.op("Mish", x),
    operator.pow: arithmetic.power,
}
"""Functions and operators; a lowering takes the arguments of the call."""


METHODS: Mapping[str, Callable[..., Any]] = {
    "square": lambda g, x: g.op("Mul", x, x),
    "mean": layers.mean,
    "sum": arithmetic.sum_,
    "expand": shapes.expand,
    "clamp": arithmetic.clamp,
    "chunk": shapes.chunk,
    "permute": shapes.permute,
    "reshape": shapes.reshape,
    "view": shapes.reshape,
    "size": shapes.size,
    "split": shapes.split,
    "flatten": shapes.flatten,
    "unsqueeze": shapes.unsqueeze,
    "repeat_interleave": shapes.repeat_interleave,
    "contiguous": lambda g, x: x,
    "clone": lambda g, x: x,
    "type_as": arithmetic.as_floating,
    "pow": arithmetic.power,
    "sqrt": lambda g, x: g.op("Sqrt", x),
    "sigmoid": lambda g, x: g.op("Sigmoid", x),
    "add_": arithmetic.elementwise("Add", operator.add),
    "mul_": arithmetic.elementwise("Mul", operator.mul),
    "index_select": shapes.index_select,
}
"""Tensor methods by name; a lowering takes the tensor and the arguments."""
