"""Blocks of SwinIR and its like made anew: equal to spandrel's at every size, and traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from paragon_export.graph.trace import trace
from paragon_export.networks.ops import shift_penalty
from paragon_export.networks.spandrel import SpandrelArchitecture, dat, swin
from paragon_export.networks.spandrel.module import PaddedNetwork, ReferenceNetwork
from paragon_export.specs.network import Port
from paragon_export.testing.foreign import foreign_checkpoint
from tests.networks.test_spandrel import network_of

NAMES = ["SwinIR", "Swin2SR", "DRCT", "HAT", "DAT"]

KINDS = {"SwinTransformerBlock", "HAB", "OCAB", "PatchEmbed", "PatchUnEmbed", "SGFN"} | {
    f"Adaptive_{what}_Attention" for what in ("Spatial", "Channel")
}
"""Layers of spandrel that are made anew."""

SIZES = ((1, 1), (9, 16), (33, 50))


def both(name: str, tmp_path: Path) -> tuple[ReferenceNetwork, PaddedNetwork]:
    """Return the network and the one to be exported, float64, with biases that count."""
    module = network_of(name, tmp_path).module
    assert isinstance(module, ReferenceNetwork)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for path, parameter in module.named_parameters():
            if path.endswith(("position_bias_table", "bias", "temperature")):
                parameter.normal_()
            elif path.endswith("logit_scale"):
                parameter.uniform_(3, 6)  # above and below its limit
    return module.double(), module.padded().double()


def gap(reference: nn.Module, padded: nn.Module, size: tuple[int, int]) -> float:
    image = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((padded(image) - reference(image)).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_new_blocks_compute_what_the_reference_computes(name: str, tmp_path: Path) -> None:
    reference, padded = both(name, tmp_path)
    kinds = {type(part).__name__ for part in padded.modules()}
    assert not kinds & KINDS
    assert KINDS & {type(part).__name__ for part in reference.modules()}
    assert max(gap(reference, padded, size) for size in SIZES) < 1e-11


def reversed_places(windows: dat.StripWindows, *arguments: Any) -> Tensor:
    """Put the pixels of windows back in reversed order."""
    x, *size = arguments
    return ORIGINAL_JOIN(windows, x.flip(2), *size)


ORIGINAL_JOIN = dat.StripWindows._join

WRONG_PARTS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mask": lambda patch: patch.setattr(dat, "shift_penalty", lambda x, *_: x.new_zeros(1, 1, 1)),
    "places": lambda patch: patch.setattr(dat.StripWindows, "_join", reversed_places),
    "padding": lambda patch: patch.setattr(
        dat, "F", SimpleNamespace(pad=partial(F.pad, value=0.5))
    ),
    "length": lambda patch: patch.setattr(swin.UnitVectors, "forward", lambda self, x: x),
}
"""Faults in the blocks of DAT."""


@pytest.mark.parametrize("part", WRONG_PARTS)
def test_a_wrong_part_of_dat_is_seen(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, padded = both("DAT", tmp_path)
    WRONG_PARTS[part](monkeypatch)
    assert gap(reference, padded, (17, 20)) > 1e-6


@pytest.mark.parametrize(
    ("name", "part"),
    [("SwinIR", "penalty"), ("HAT", "zeros"), ("HAT", "bias"), ("Swin2SR", "factor")],
)
def test_a_wrong_block_is_seen(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, padded = both(name, tmp_path)
    if part == "penalty":
        monkeypatch.setattr(swin, "shift_penalty", lambda x, *_: x.new_zeros(1, 64, 64))
    elif part == "zeros":  # the edge is repeated instead
        monkeypatch.setattr(swin, "floating", lambda x, like: torch.ones_like(x, dtype=like.dtype))
    elif part == "factor":
        monkeypatch.setattr(swin.CosineWindows, "compared", lambda self, q, k: (q, k))
    else:
        for block in padded.modules():
            if isinstance(block, swin.WiderWindows):
                block.bias.data = block.bias.data.flip(2)
    assert gap(reference, padded, (33, 50)) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_new_blocks_are_traced_symbolically(name: str, tmp_path: Path) -> None:
    network, architecture = network_of(name, tmp_path), SpandrelArchitecture()
    inputs, outputs = architecture.ports(network.spec, video=False)
    graph = trace(architecture.exportable(network.module), inputs, outputs, 20).graph
    penalties = [node for node in graph if node.op_type == "Equal"]
    # Computed once for all layers; DAT has high and wide windows.
    assert len(penalties) == (2 if name == "DAT" else 1)


def mask_of_spandrel(height: int, width: int, window: int, shift: int, tmp_path: Path) -> Tensor:
    """Return the mask that spandrel's SwinIR computes."""
    foreign_checkpoint(tmp_path / "net.pth", "SwinIR")  # loads spandrel
    from spandrel.architectures.SwinIR.__arch.SwinIR import SwinTransformerBlock

    block = SwinTransformerBlock(8, (64, 64), 2, window_size=window, shift_size=shift)
    mask: Tensor = block.calculate_mask((height, width))
    return mask


CASES = [(8, 8, 8, 4), (16, 24, 8, 4), (12, 8, 4, 1), (32, 16, 16, 9)]


@pytest.mark.parametrize("case", CASES)
def test_the_mask_of_shifted_windows_is_that_of_spandrel(
    case: tuple[int, int, int, int], tmp_path: Path
) -> None:
    height, width, window, shift = case
    mask = shift_penalty(torch.zeros(1), height, width, (window, window), (shift, shift))
    assert torch.equal(mask, mask_of_spandrel(*case, tmp_path))


def test_the_masks_of_dat_are_those_of_spandrel(tmp_path: Path) -> None:
    layer = next(p for p in both("DAT", tmp_path)[0].modules() if hasattr(p, "calculate_mask"))
    for index, (window, shift) in enumerate((((8, 32), (4, 16)), ((32, 8), (16, 4)))):
        mask = shift_penalty(torch.zeros(1), 32, 96, window, shift)
        assert torch.equal(mask, layer.calculate_mask(32, 96)[index])


class Masked(nn.Module):
    """The mask of windows of 8x16 that were shifted by half, for the size of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return shift_penalty(x, x.shape[2], x.shape[3], (8, 16), (4, 8))


fx.wrap("shift_penalty")


def test_the_mask_in_a_graph_is_the_same() -> None:
    port = Port("x", (1, 1, "height", "width"))
    model = trace(Masked(), [port], [Port("y", ("windows", 128, 128))], 20)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    for height, width in ((8, 16), (16, 48)):
        x = np.zeros((1, 1, height, width), np.float32)
        expected = shift_penalty(torch.zeros(1), height, width, (8, 16), (4, 8))
        assert np.array_equal(session.run(None, {"x": x})[0], expected.numpy())
