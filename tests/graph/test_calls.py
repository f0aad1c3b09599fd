"""Every PyTorch call that has a lowering gives the values that PyTorch gives, at sizes never traced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.errors import TraceError
from paragon_export.graph.trace import trace
from paragon_export.networks.ops import reflected, set_edges
from paragon_export.specs.network import Port
from tests.graph.test_trace import IMAGE, RESULT, run, session

SIZES = ((1, 4, 6), (2, 8, 4), (1, 64, 34))

CLOSE = 2e-6
"""Of the largest value: float32 against float64."""


class Layered(nn.Module):
    """A convolution to eight channels, and a function of its result."""

    def __init__(self, function: Callable[[Layered, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.rand(8))
        self.kernel = nn.Parameter(torch.rand(4, 8, 3, 3) - 0.5)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.first(x))


LAYERS: dict[str, nn.Module] = {
    "PReLU": nn.PReLU(3, init=0.3),
    "PReLU with one slope": nn.PReLU(),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
    "Tanh": nn.Tanh(),
    "Softmax": nn.Softmax(dim=1),
    "Dropout": nn.Dropout2d(0.5),
    "transposed convolution": nn.ConvTranspose2d(3, 5, 4, 2, 1),
    "transposed convolution of groups": nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, groups=3, bias=False),
    "nearest upsampling": nn.Upsample(scale_factor=2),
    "bilinear upsampling": nn.Upsample(scale_factor=3, mode="bilinear"),
    "group norm": nn.GroupNorm(3, 3, eps=0.01),
    "average of the picture": nn.AdaptiveAvgPool2d(1),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "convolution that reflects": nn.Conv2d(3, 5, (3, 5), padding=(1, 2), padding_mode="reflect"),
    "convolution that repeats the edge": nn.Conv2d(
        3, 5, 5, stride=2, padding=(2, 1), padding_mode="replicate"
    ),
}

for values in LAYERS["group norm"].parameters():
    nn.init.uniform_(values)

CALLS: dict[str, Callable[[Layered, Tensor], Tensor]] = {
    "pixel_unshuffle": lambda m, x: torch.pixel_unshuffle(x, downscale_factor=2),
    "conv2d": lambda m, x: F.conv2d(x, m.kernel, None, 1, 1),
    "conv2d with a stride": lambda m, x: F.conv2d(x, m.kernel, m.weight[:4], stride=2, padding=(1, 0)),
    "part of a weight": lambda m, x: x * m.weight[:, None, None],
    "weight by a call": lambda m, x: x * m.weight.view(1, -1, 1, 1),
    "mean of the picture": lambda m, x: x * x.mean((2, 3), keepdim=True),
    "mean counted from the end": lambda m, x: x * x.mean((-2, -1), keepdim=True),
    "larger of two": lambda m, x: torch.maximum(x, x * m.weight[:, None, None]),
    "square": lambda m, x: x.pow(2) + x**2,
    "divided by an extent": lambda m, x: x / x.shape[2],
    "reflected": lambda m, x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "repeated edge": lambda m, x: F.pad(x, (1, 2, 3, 1), mode="replicate"),
    "repeated channels": lambda m, x: torch.repeat_interleave(x, 4, dim=1),
    "split": lambda m, x: torch.cat(x.split([2, 6], dim=1)[::-1], 1),
    "split into equal parts": lambda m, x: torch.cat(torch.split(x, 3, dim=1)[1:], 1),
    "flatten": lambda m, x: torch.flatten(x, 2).unsqueeze(1),
    "size": lambda m, x: x.view(x.size(0), 2, 4, x.size()[2], x.size(3)).sum(1),
    "extents from an axis on": lambda m, x: x.reshape(-1, *[x.shape[2:][i] for i in (0, 1)]).unsqueeze(0),
    "extents from the end": lambda m, x: x.reshape(1, -1, x.shape[-2], x.shape[-1]),
    "remainder": lambda m, x: F.pad(x, (0, -x.shape[3] % 5, 0, (5 - x.shape[2] % 5) % 5)),
    "larger": lambda m, x: F.pad(x, (0, torch.sym_max(x.shape[3], 40) - x.shape[3])),
    "padded and unshuffled": lambda m, x: F.pixel_unshuffle(F.pad(x, (2, 0, 1, 1)), 2),
    "max pooling": lambda m, x: F.max_pool2d(x, 2),
    "mean and sum by functions": lambda m, x: torch.mean(x, dim=(2, 3), keepdim=True) * torch.sum(x, dim=1, keepdim=True),
    "slices behind an ellipsis": lambda m, x: x[..., 1:3, :5],
    "slices on both sides of an ellipsis": lambda m, x: x[:, 2:, ..., : x.shape[2]],
    "rows reflected": lambda m, x: x.index_select(2, reflected(x, 2, x.shape[2] * 3)),
    "where": lambda m, x: torch.where(x.type_as(m.weight) < 0.1, x, x * 2.0),
    "functions": lambda m, x: torch.tanh(F.silu(x)) + torch.relu(x) * torch.sigmoid(x) + torch.clamp(x, 0.1, 0.2),
    "methods": lambda m, x: x.contiguous().clone().sigmoid() + torch.add(x, -x) + torch.mul(x, x),
}  # fmt: skip


def compared(module: nn.Module) -> None:
    """Compare the graph of a module with PyTorch at all sizes."""
    module = module.requires_grad_(False).eval()
    running = session(trace(module, IMAGE, RESULT, 20))
    wide = module.double()
    for batch, height, width in SIZES:
        pixels = np.random.default_rng(3).random((batch, 3, height, width), np.float32)
        expected = wide(torch.from_numpy(pixels).double()).numpy()
        found = run(running, pixels)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= CLOSE * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_pytorch_computes(name: str) -> None:
    compared(nn.Sequential(LAYERS[name]))


@pytest.mark.parametrize("name", CALLS)
def test_calls_compute_what_pytorch_computes(name: str) -> None:
    compared(Layered(CALLS[name]))


REFUSED: dict[str, Callable[[Layered, Tensor], Tensor]] = {
    "a power of a tensor": lambda m, x: x**3,
    "floor division of a tensor": lambda m, x: x // 2.0,
    "computed kernels": lambda m, x: F.conv2d(x, x),
    "repeating rows": lambda m, x: torch.repeat_interleave(x, 2, dim=2),
    "splitting rows": lambda m, x: torch.cat(x.split(4, dim=2)),
    "flattening the first axes": lambda m, x: torch.flatten(x, 0, 1),
    "adaptive pooling to rows": lambda m, x: nn.AdaptiveAvgPool2d((3, 1))(x),
    "corners aligned": lambda m, x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    ),
    "pixel_unshuffle of unknown depth": lambda m, x: F.pixel_unshuffle(x[:, :3], 2),
    "part of a shape": lambda m, x: x.reshape(*[x.shape[1:3][i] for i in (0, 1)], -1),
    "remainder of a tensor": lambda m, x: x % 2,
    "new axis behind an ellipsis": lambda m, x: x[..., None],
    "padded max pooling": lambda m, x: F.max_pool2d(x, 3, padding=1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_lowering_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(TraceError):
        trace(Layered(REFUSED[name]), IMAGE, RESULT, 20)


def test_a_gray_picture_is_unshuffled() -> None:
    image = Port("input", ("batch", 1, "height", "width"))
    running = session(trace(nn.Sequential(nn.PixelUnshuffle(2)), [image], RESULT, 20))
    pixels = np.random.default_rng(3).random((1, 1, 4, 6), np.float32)
    expected = F.pixel_unshuffle(torch.from_numpy(pixels), 2).numpy()
    assert np.array_equal(run(running, pixels), expected)


# --- edges -----------------------------------------------------------------------------------


class Edges(nn.Module):
    """Maps whose outermost lines are replaced, twice along each axis, with different lines."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first(x))
        for factor in (2.0, 3.0):
            for dim in (2, 3):
                line = y.mean(dim=dim, keepdim=True)
                y = set_edges(y, torch.cat((line * factor, line - factor), dim=dim), dim)
        return y


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (2, 5), (6, 7)])
def test_edges_are_replaced_and_of_one_line_the_first(size: tuple[int, int]) -> None:
    module = Edges().requires_grad_(False).eval()
    pixels = np.random.default_rng(3).random((2, 3, *size), np.float32)
    found = run(session(trace(module, IMAGE, RESULT, 20)), pixels)
    expected = module.double()(torch.from_numpy(pixels).double()).numpy()
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()
    y = torch.rand(1, 2, *size)
    for dim in (2, 3):
        edges = torch.rand([2 if axis == dim else extent for axis, extent in enumerate(y.shape)])
        replaced = set_edges(y, edges, dim)
        assert torch.equal(replaced.select(dim, 0), edges.select(dim, 0))
        if y.shape[dim] > 1:
            assert torch.equal(replaced.select(dim, -1), edges.select(dim, 1))
            middle = y.shape[dim] - 2
            assert torch.equal(replaced.narrow(dim, 1, middle), y.narrow(dim, 1, middle))


def test_maps_of_one_size_share_the_indices_of_their_edges() -> None:
    """TensorRT keeps each index tensor of an engine for many sizes in memory."""
    model = trace(Edges().eval(), IMAGE, RESULT, 20)
    scatters = [node for node in model.graph if node.op_type == "ScatterElements"]
    assert len(scatters) == 4
    assert len({node.inputs[1] for node in scatters}) == 2
