"""Extents: sizes are read from earlier tensors only where they must be equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.graph.trace import trace
from paragon_export.networks.ops import sized_like
from paragon_export.runtimes.ort_runner import OnnxRunner
from paragon_export.specs.network import Port

IMAGE = (Port("input", ("batch", 4, "height", "width")),)


class Told(nn.Module):
    """A map of which every extent is written into the output."""

    def __init__(self, compute: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.compute = compute
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.narrow = nn.Conv2d(4, 6, 3)
        self.wide = nn.Conv2d(4, 6, 1, padding=1)
        self.far = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
        self.strided = nn.Conv2d(4, 4, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.compute(self, x)
        n, c, h, w = y.shape
        return y.reshape(n * h, c * w)


KEEPING = {
    "convolution": lambda m, x: m.conv(x),
    "dilated": lambda m, x: x + m.far(x),
    "gate": lambda m, x: x * torch.sqrt(x.square().mean(dim=(2, 3), keepdim=True)),
    "norm": lambda m, x: x / torch.sqrt(x.square().mean(dim=1, keepdim=True) + 1.0),
    "joined": lambda m, x: torch.cat((x[:, :1], m.conv(x), x[:, 1:3]), dim=1),
    "transposed": lambda m, x: m.conv(x).permute(0, 2, 3, 1),
    "declared": lambda m, x: sized_like(F.pad(x, (0, 1, 0, 1))[:, :, :-1, :-1], x),
}

CHANGING = {
    "no padding": lambda m, x: m.narrow(x),
    "padding": lambda m, x: m.wide(x),
    "stride": lambda m, x: m.strided(x),
    "joined along the width": lambda m, x: torch.cat((x, x, x), dim=3),
    "joined along the last": lambda m, x: torch.cat((x, m.conv(x)[:, :4]), dim=-1),
    "cut": lambda m, x: x[:, :, 2:],
    "mean of rows": lambda m, x: x.mean(dim=2, keepdim=True),
    "mean of the last": lambda m, x: x.mean(dim=-1, keepdim=True),
    "broadcast": lambda m, x: x.mean(dim=(2, 3), keepdim=True) + x[:, :, :3, :2],
    "outer": lambda m, x: x[:, :, :, :1] + x[:, :, :1, :],
}


@pytest.mark.parametrize("compute", [*KEEPING.values(), *CHANGING.values()],
                         ids=[*KEEPING, *CHANGING])  # fmt: skip
def test_every_extent_is_right(compute: Callable[[nn.Module, Tensor], Tensor]) -> None:
    module = Told(compute).eval()
    model = trace(module, IMAGE, (Port("output", ("rows", "columns")),), 20)
    runner = OnnxRunner(ir.to_proto(model).SerializeToString())
    for size in ((4, 4), (7, 12), (16, 5)):
        x = np.random.default_rng(0).random((2, 4, *size), dtype=np.float32)
        with torch.no_grad():
            expected = module(torch.from_numpy(x)).numpy()
        found = runner.infer({"input": x})["output"]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("compute", KEEPING.values(), ids=KEEPING)
def test_kept_extents_are_read_from_the_input(
    compute: Callable[[nn.Module, Tensor], Tensor],
) -> None:
    model = trace(Told(compute).eval(), IMAGE, (Port("output", ("rows", "columns")),), 20)
    shapes = [node for node in model.graph if node.op_type == "Shape"]
    read = {node.inputs[0].name for node in shapes if node.attributes["start"].as_int() != 1}
    assert read == {"input"}


def test_a_wrong_declaration_is_seen() -> None:
    with pytest.raises(ValueError, match="is not the size of"):
        sized_like(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 5))
