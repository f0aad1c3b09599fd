"""Sabotage by tracing another network, or the right one wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from paragon_export.graph.trace import trace
from paragon_export.networks.describe import describe
from paragon_export.parity.reference import build_reference
from paragon_export.specs.plans import NetworkOptions
from paragon_export.testing.sabotage.case import OPSET, TRACED_AT, Break, Case, case_of
from paragon_export.testing.tiny import tiny_hyperparameters, tiny_tensors


def another(**flags: Any) -> Break:
    """The same weights with a switch that tensors cannot tell."""

    def make(case: Case) -> ir.Model:
        opset = case.model.opset_imports[""]
        return case_of(case.checkpoint.path, opset=opset, **flags).model

    return make


def baked_size(case: Case) -> ir.Model:
    """A graph traced at one size that claims to take any size."""
    ports = case.reference.fixed(TRACED_AT)
    model = trace(case.reference.module, *ports, case.model.opset_imports[""])
    for value, port in zip(
        (*model.graph.inputs, *model.graph.outputs),
        (*case.reference.inputs, *case.reference.outputs),
        strict=True,
    ):
        value.shape = ir.Shape(port.dims)
    return model


def last_weights(case: Case) -> ir.Model:
    """The weights of the last step in place of the averaged ones, from the same file."""
    last = describe(case.checkpoint.other_weights(), NetworkOptions(flags={"upsampler_alpha": 0.0}))
    reference = build_reference(last)
    return trace(reference.module, reference.inputs, reference.outputs, OPSET)


def both_weights(path: Path) -> Path:
    """Write a training checkpoint with averaged weights next to the last ones."""
    averaged = tiny_tensors(tiny_hyperparameters("realtime"))
    rng = np.random.default_rng(1)
    last = {
        name: array if name.startswith("base.") else array + 1e-3 * rng.standard_normal(array.shape)
        for name, array in averaged.items()
    }
    torch.save(
        {
            container: {name: torch.tensor(array, dtype=torch.float32) for name, array in w.items()}
            for container, w in (("params", last), ("params_ema", averaged))
        },
        path,
    )
    return path


class Halves(nn.Module):
    """Upscales the left and the right half apart and puts them side by side."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        half = (x.shape[3] + 1) // 2
        rest = x.shape[3] - half
        left, right = self.network(x[:, :, :, :half]), self.network(x[:, :, :, rest:])
        return torch.cat((left[:, :, :, : 2 * rest], right), 3)


def halves_apart(case: Case) -> ir.Model:
    halves = Halves(case.reference.module)
    return trace(halves, case.reference.inputs, case.reference.outputs, OPSET)
