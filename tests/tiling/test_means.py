"""Means over the picture: computed in tiles, they are those of the whole picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paragon_export.errors import InexactTilesError
from paragon_export.networks.describe import load_network
from paragon_export.networks.paragonsr2.blocks import GroupNorm
from paragon_export.parity.reference import build_reference
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.runtimes.torch_runner import TorchRunner
from paragon_export.specs.network import Port
from paragon_export.specs.types import Size
from paragon_export.testing.foreign import foreign_network
from paragon_export.tiling import means
from paragon_export.tiling.field import Field
from paragon_export.tiling.means import measure_field_and_means
from paragon_export.tiling.open import field_of_network
from paragon_export.tiling.plan import least_tile
from paragon_export.tiling.run import TiledRunner

PICTURE = (Port("input", ("batch", 3, "height", "width")),)


def runner_of(module: nn.Module, dtype: str = "float64") -> TorchRunner:
    return TorchRunner(module.eval(), ["input"], ["output"], dtype)


def noise(size: Size) -> Arrays:
    return {"input": np.random.default_rng(0).random((1, 3, size.height, size.width))}


def worst(runner: Runner, field: Field, size: Size, tile: int) -> float:
    """Return the largest difference between tiles and the whole on noise, which is not flat."""
    feeds = noise(size)
    feeds["input"][:, :, : size.height // 2] *= 0.2
    whole, tiled = (
        r.infer(feeds)["output"] for r in (runner, TiledRunner(runner, field, Size(tile, tile)))
    )
    return float(np.abs(whole - tiled).max())


def opened(name: str, tmp_path: Path, tiny: Mapping[str, Path]) -> tuple[TorchRunner, Field]:
    """Return a network in float64, and its field."""
    path = tiny.get(name, tmp_path / "f.pth")
    if name not in tiny:
        # Gates that are closed before a training would hide the means.
        tensors = foreign_network(name).state_dict()
        for key, tensor in tensors.items():
            if key.endswith("conv_du.0.bias") or not tensor.any():
                tensor += 4
        torch.save(tensors, path)
    reference = build_reference(load_network(path))
    runner, inputs = reference.runner("float32"), reference.inputs
    return reference.runner("float64"), field_of_network(runner, inputs, reference.input_spec)


@pytest.mark.parametrize(
    ("name", "ratios", "step"),
    [
        ("pro", (1, 1), 16),
        ("RCAN", (1, 1), 1),
        ("RCAN with unshuffle", (Fraction(1, 2), Fraction(1, 2)), 4),
        ("RealPLKSR", (1, 1), 1),
        ("NAFNet", (1, Fraction(1, 2), Fraction(1, 4), Fraction(1, 2), 1), 4),
    ],
)
def test_tiles_give_the_whole_picture(
    name: str, ratios: tuple[Fraction, ...], step: int, tmp_path: Path,
    tiny_checkpoints: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """In float64, where tiles are partial and the network pads. With one mean of a tile they do not."""
    runner, field = opened(name, tmp_path, tiny_checkpoints)
    assert field.means == ratios
    assert field.step % step == 0
    field = replace(field, step=step)  # those of others are multiples of what a small network needs
    tile = least_tile(field) + step
    long, short = tile + 2 * step + 3, 2 * step + 3
    sizes = Size(long, short), Size(short, long)
    assert [worst(runner, field, size, tile) < 1e-12 for size in sizes] == [True, True]

    right = means._mean
    for wrong in {0, len(ratios) - 1}:
        numbers = count()

        def mean(
            knowing: means._Knowing, feeds: Arrays, wrong: int, numbers: Iterator[int]
        ) -> Tensor:
            if next(numbers) == wrong:
                knowing.plan = replace(knowing.plan, rows=knowing.plan.rows[:1])
            return right(knowing, feeds)

        monkeypatch.setattr(means, "_mean", partial(mean, wrong=wrong, numbers=numbers))
        assert worst(runner, field, sizes[0], tile) > 1e-9


class Gate(nn.Module):
    """The picture times a number of a map that serves its mean alone."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.layers(x).mean(dim=(-1, -2), keepdim=True))


@pytest.mark.parametrize(
    ("module", "field"),
    [
        (Gate(nn.Conv2d(3, 3, 13, padding=6)), Field(6, means=(Fraction(1),))),
        (Gate(nn.Upsample(scale_factor=3)), Field(0, means=(Fraction(3),))),
        (Gate(nn.AdaptiveAvgPool2d((1, 1))), Field(0, means=(Fraction(1),))),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), GroupNorm(4, affine=True), nn.Conv2d(4, 3, 1)),
         Field(1, means=(Fraction(1), Fraction(1)))),
        (nn.Sequential(nn.GroupNorm(3, 3, affine=False), nn.Conv2d(3, 3, 3, padding=1)),
         Field(1, means=(Fraction(1),))),
    ],
)  # fmt: skip
def test_means_of_all_kinds(module: nn.Module, field: Field) -> None:
    """The field is also that of maps that serve their mean alone."""
    assert measure_field_and_means(runner_of(module, "float32"), PICTURE) == field
    assert worst(runner_of(module), field, Size(47, 41), least_tile(field)) < 1e-12


def test_a_margin_of_the_output_alone_is_wrong() -> None:
    module = Gate(nn.Conv2d(3, 3, 13, padding=6))
    less = Field(0, means=(Fraction(1),))
    assert worst(runner_of(module), less, Size(47, 41), 20) > 1e-6


class Windows(nn.Module):
    """Means of windows of 4x4, which are in the batch, and of the picture."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        windows = x.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5)
        local = windows.reshape(-1, c, 4, 4).mean((2, 3), keepdim=True).expand(-1, -1, 4, 4)
        local = local.reshape(n, h // 4, w // 4, c, 4, 4).permute(0, 3, 1, 4, 2, 5)
        return local.reshape(x.shape) * x.mean((2, 3), keepdim=True)


def test_means_of_windows_are_computed() -> None:
    field = measure_field_and_means(runner_of(Windows(), "float32"), PICTURE, step=4)
    assert field == Field(0, step=4, means=(Fraction(1),))
    assert worst(runner_of(Windows()), field, Size(44, 20), least_tile(field)) < 1e-12


class Attending(nn.Module):
    """Attention of channels, over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return (torch.softmax(flat @ flat.mT, dim=-1) @ flat).reshape(x.shape)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Gate(nn.AdaptiveAvgPool2d(8)), "map of 8x8 for a picture of 129x16"),
        (Gate(nn.AdaptiveAvgPool2d((None, 8))), "map of 129x8"),
        (Gate(nn.AvgPool2d(2, ceil_mode=True)), "map of 65x8"),
        (Gate(nn.ZeroPad2d(1)), "map of 131x18"),
        (Attending(), "attends to all of it"),
        (nn.Softmax(dim=2), "attends to all of it"),
    ],
)
def test_what_is_refused(module: nn.Module, words: str) -> None:
    """Means of maps that do not follow the picture, and what is no mean."""
    with pytest.raises(InexactTilesError, match=words):
        measure_field_and_means(runner_of(module, "float32"), PICTURE)


class Fickle(nn.Module):
    """Another number of means for pictures of more rows than columns."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * x.mean((2, 3), keepdim=True)
        return x * x.mean((2, 3), keepdim=True) if x.shape[2] > x.shape[3] else x


def test_a_number_of_means_that_depends_on_the_size_is_refused() -> None:
    with pytest.raises(InexactTilesError, match="do not follow"):
        measure_field_and_means(runner_of(Fickle(), "float32"), PICTURE)
    for number, word in ((1, "more"), (3, "fewer")):
        with pytest.raises(InexactTilesError, match=f"takes {word} means"):
            worst(runner_of(Fickle()), Field(0, means=(Fraction(1),) * number), Size(40, 4), 6)


def test_maps_of_another_size_than_before_are_noticed() -> None:
    gate = runner_of(Gate(nn.Upsample(scale_factor=3)))
    with pytest.raises(InexactTilesError, match="a map of 18 pixels for a tile of 6"):
        worst(gate, Field(0, means=(Fraction(2),)), Size(40, 40), 6)
