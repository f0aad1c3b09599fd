"""Blocks of SwinIR and HAT made anew: equal to spandrel's at every size, and traced by the own tracer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, fx, nn

from paragon_export.graph.trace import trace
from paragon_export.networks.ops import shift_penalty
from paragon_export.networks.spandrel import SpandrelArchitecture, swin
from paragon_export.networks.spandrel.module import PaddedNetwork, ReferenceNetwork
from paragon_export.specs.network import Port
from paragon_export.testing.foreign import foreign_checkpoint
from tests.networks.test_spandrel import network_of

NAMES = ["SwinIR", "HAT"]

SIZES = ((1, 1), (9, 16), (33, 50))


def both(name: str, tmp_path: Path) -> tuple[ReferenceNetwork, PaddedNetwork]:
    """Return the network and the one to be exported, float64, with biases that count."""
    module = network_of(name, tmp_path).module
    assert isinstance(module, ReferenceNetwork)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for path, parameter in module.named_parameters():
            if path.endswith(("position_bias_table", "bias")):
                parameter.normal_()
    return module.double(), module.padded().double()


def gap(reference: nn.Module, padded: nn.Module, size: tuple[int, int]) -> float:
    image = torch.rand(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return float((padded(image) - reference(image)).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_new_blocks_compute_what_the_reference_computes(name: str, tmp_path: Path) -> None:
    reference, padded = both(name, tmp_path)
    kinds = {type(part).__name__ for part in padded.modules()}
    assert not kinds & {"SwinTransformerBlock", "HAB", "OCAB", "PatchEmbed", "PatchUnEmbed"}
    assert {"SwinTransformerBlock", "HAB"} & {type(part).__name__ for part in reference.modules()}
    assert max(gap(reference, padded, size) for size in SIZES) < 1e-11


@pytest.mark.parametrize(
    ("name", "part"), [("SwinIR", "penalty"), ("HAT", "zeros"), ("HAT", "bias")]
)
def test_a_wrong_block_is_seen(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, padded = both(name, tmp_path)
    if part == "penalty":
        monkeypatch.setattr(swin, "shift_penalty", lambda x, *_: x.new_zeros(1, 64, 64))
    elif part == "zeros":  # the edge is repeated instead
        monkeypatch.setattr(swin, "floating", lambda x, like: torch.ones_like(x, dtype=like.dtype))
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
    assert len(penalties) == 1  # computed once for all layers


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
    assert torch.equal(shift_penalty(torch.zeros(1), *case), mask_of_spandrel(*case, tmp_path))


class Masked(nn.Module):
    """The mask of windows of 8 that were shifted by 4, for the size of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return shift_penalty(x, x.shape[2], x.shape[3], 8, 4)


fx.wrap("shift_penalty")


def test_the_mask_in_a_graph_is_the_same() -> None:
    port = Port("x", (1, 1, "height", "width"))
    model = trace(Masked(), [port], [Port("y", ("windows", 64, 64))], 20)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    for height, width in ((8, 8), (16, 24)):
        x = np.zeros((1, 1, height, width), np.float32)
        expected = shift_penalty(torch.zeros(1), height, width, 8, 4)
        assert np.array_equal(session.run(None, {"x": x})[0], expected.numpy())
