"""Heads of windows as wide as TensorRT takes them: exact, and where they are not so already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paragon_export.networks.spandrel.swin import CosineWindows, ShiftedWindows, WiderWindows
from paragon_export.rewrite.attention.padded_heads import pad_heads
from paragon_export.rewrite.rules import rewrite
from paragon_export.specs.types import Runtime
from tests.engines.moved import moved_bytes
from tests.rewrite.test_rules import Applied, randomise


def attention(heads: int, width: int, places: int, bias: bool = True) -> Any:
    """Return what a block takes of a layer of spandrel."""
    channels = heads * width
    return SimpleNamespace(
        num_heads=heads, scale=width**-0.5, qkv=nn.Linear(channels, 3 * channels, bias=bias),
        relative_position_bias_table=torch.randn(places, heads), proj=nn.Linear(channels, channels),
    )  # fmt: skip


class Windows(nn.Module):
    """Attention of a map of two heads; its sides are multiples of the window."""

    def __init__(self, width: int, make: Callable[[Any], nn.Module], **options: Any) -> None:
        super().__init__()
        self.attend = make(attention(2, width, 64, **options))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        tokens = x.flatten(2).permute(0, 2, 1)
        return self.attend(tokens, height, width)


def shifted(layer: Any) -> nn.Module:
    return ShiftedWindows(layer, torch.arange(16 * 16).reshape(16, 16) % 64, 4, 2)


def by_cosine(layer: Any) -> nn.Module:
    channels = layer.qkv.in_features
    layer.q_bias, layer.v_bias = (
        torch.randn(2, channels) if layer.qkv.bias is not None else (None, None)
    )
    layer.relative_coords_table, layer.logit_scale = torch.randn(1, 8, 8, 2), torch.randn(2, 1, 1)
    layer.cpb_mlp = nn.Linear(2, layer.num_heads)
    return CosineWindows(layer, torch.arange(16 * 16).reshape(16, 16) % 64, 4, 2)


def wider(layer: Any) -> nn.Module:
    return WiderWindows(layer, torch.arange(16 * 36).reshape(16, 36) % 64, 4, 6)


@pytest.mark.parametrize("make", [shifted, by_cosine, wider])
@pytest.mark.parametrize(("width", "padded"), [(5, 16), (8, 16), (18, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_heads_are_padded(make: Any, width: int, padded: int, bias: bool) -> None:
    applied = Applied(randomise(Windows(width, make, bias=bias)), pad_heads)
    assert applied.fired == [1]
    errors = [applied.error(size, 2 * width) for size in ((4, 4), (4, 12), (16, 8))]
    assert max(errors) < 1e-12
    layer = applied.module.get_submodule("attend")
    assert layer.q.out_features == layer.proj.in_features == 2 * padded


@pytest.mark.parametrize("make", [shifted, wider])
@pytest.mark.parametrize("width", [16, 24])
def test_heads_of_a_width_that_fits_stay(make: Any, width: int) -> None:
    assert Applied(randomise(Windows(width, make)), pad_heads).fired == [0]


def test_a_layer_called_twice_stays() -> None:
    class Twice(Windows):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(x + 1)

    assert Applied(randomise(Twice(5, shifted)), pad_heads).fired == [0]


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize("half", [False, True])
def test_it_is_for_tensorrt_in_half_precision(runtime: Runtime, half: bool) -> None:
    fired = rewrite(randomise(Windows(5, shifted)), runtime, half=half).fired
    assert ("pad_heads" in fired) == (half and runtime is Runtime.TENSORRT)


def test_tensorrt_moves_less(tmp_path: Path) -> None:
    rewritten, trained = moved_bytes("SwinIR", {"pad_heads": 4}, tmp_path)
    assert rewritten < trained
