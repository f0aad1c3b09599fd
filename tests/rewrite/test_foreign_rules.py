"""Rules for networks of others: each computes the same, fires where it should and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.describe import read_network
from paragon_export.networks.spandrel.norms import RowwiseGroupNorm
from paragon_export.pipeline.export import make_onnx
from paragon_export.pipeline.float32_graph import float32_graph
from paragon_export.rewrite.layers import group_norm_in_one_call, mish_by_sigmoid, prelu_by_maximum
from paragon_export.rewrite.linear import fold_gains
from paragon_export.rewrite.nearest import add_before_shuffle, transpose_after_nearest
from paragon_export.specs.plans import ExportPlan, NetworkOptions
from paragon_export.specs.types import Precision, Runtime, Tracer
from paragon_export.testing.foreign import foreign_checkpoint
from tests.rewrite.test_rules import Applied, chain

# --- gains that are numbers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "compute", [lambda m, x: m.conv(x) * 0.2 + x, lambda m, x: x + 0.2 * m.conv(x)]
)
def test_a_number_moves_into_the_convolution_before_it(compute: Any) -> None:
    applied = Applied(chain(compute, conv=nn.Conv2d(8, 8, 3, padding=1)), fold_gains)
    assert applied.fired == [1]
    assert applied.exact()
    assert torch.mul not in {node.target for node in applied.module.graph.nodes}


# --- Mish ----------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", [lambda m, x: m.mish(x), lambda m, x: F.mish(x)])
def test_mish_is_made_of_sigmoids(compute: Any) -> None:
    applied = Applied(chain(compute, mish=nn.Mish()), mish_by_sigmoid)
    assert applied.fired == [1]
    assert applied.exact()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_mish_keeps_its_precision_where_exponentials_overflow(dtype: torch.dtype) -> None:
    """From the largest to the smallest values of the type, and near zero."""
    module = Applied(chain(lambda m, x: F.mish(x)), mish_by_sigmoid).module
    x = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([-6e4, 6e4, 88.8, -88.8, -1e-4])])
    expected = F.mish(x.double())
    found = module(x.to(dtype)).double()
    assert torch.isfinite(found).all()
    error = (found - F.mish(x.to(dtype).double())).abs()
    kind = torch.finfo(dtype)
    # A sigmoid that is too small for the type is zero, and so is a result.
    lost = kind.smallest_normal * (2 * x.double().abs() + kind.eps)
    assert (error <= 4 * kind.eps * expected.abs() + lost).all()


# --- PReLU ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slopes", [(-0.5, 1.0), (-0.5, 3.0)], ids=["up to 1", "larger ones too"])
@pytest.mark.parametrize("count", [1, 8])
def test_sloped_activations_are_maxima(count: int, slopes: tuple[float, float]) -> None:
    layer = nn.PReLU(count)
    module = chain(lambda m, x: m.act(x) + m.act(-x), act=layer)
    with torch.no_grad():
        layer.weight.copy_(
            torch.linspace(*slopes, count) if count > 1 else torch.tensor([slopes[1]])
        )
    applied = Applied(module, prelu_by_maximum)
    assert applied.fired == [2]
    assert applied.exact()


# --- group norms ---------------------------------------------------------------------------


def test_group_norms_are_one_call() -> None:
    applied = Applied(
        chain(lambda m, x: m.norm(x), norm=RowwiseGroupNorm(nn.GroupNorm(4, 8))),
        group_norm_in_one_call,
    )
    assert applied.fired == [1]
    assert all(
        applied.error(size) < 1e-9 for size in ((3, 5), (16, 32))
    )  # of one value: divided by 0


def test_group_norms_without_weights_stay() -> None:
    plain = RowwiseGroupNorm(nn.GroupNorm(4, 8, affine=False))
    assert Applied(chain(lambda m, x: m.norm(x), norm=plain), group_norm_in_one_call).fired == [0]


@pytest.mark.parametrize(
    ("precision", "runtime", "operators"),
    [
        (Precision.FP32, Runtime.TENSORRT, 0),
        (Precision.FP16, Runtime.ONNXRUNTIME, 0),
        (Precision.FP16, Runtime.ANY, 2),
        (Precision.FP16, Runtime.TENSORRT, 2),
    ],
)
def test_group_norms_are_one_operator_in_half_alone(
    precision: Precision, runtime: Runtime, operators: int, tmp_path: Path
) -> None:
    """The operator takes half precision itself: no cast stands around it."""
    checkpoint = foreign_checkpoint(tmp_path / "net.pth", "RealPLKSR")
    plan = ExportPlan(
        checkpoint=checkpoint, output=tmp_path / "net.onnx", runtime=runtime, precision=precision
    )
    result = make_onnx(read_network(checkpoint, NetworkOptions()), plan)
    assert result.passed
    norms = [n for n in result.file.model.graph if n.op_type == "InstanceNormalization"]
    assert len(norms) == operators
    for norm in norms:
        reshape = norm.inputs[0].producer()
        assert reshape.op_type == "Reshape"
        assert reshape.inputs[0].producer().op_type != "Cast"


# --- nearest upsampling, then a convolution ------------------------------------------------


def up(scale: float, **options: Any) -> Callable[[Any, Tensor], Tensor]:
    return lambda m, x: m.conv(F.interpolate(x, scale_factor=scale, mode="nearest", **options))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Conv2d(8, 6, 5, padding=2, bias=False),
        nn.Conv2d(8, 6, (1, 3), padding=(0, 1)),
        nn.Conv2d(8, 6, 1),
    ],
    ids=["3x3", "5x5 without bias", "1x3", "1x1"],
)
def test_upsampled_maps_are_convolved_in_one_step(scale: int, conv: nn.Conv2d) -> None:
    """At every size, borders included."""
    applied = Applied(chain(up(scale), conv=conv), transpose_after_nearest)
    assert applied.fired == [1]
    assert applied.exact()
    assert F.interpolate not in {node.target for node in applied.module.graph.nodes}


def test_a_layer_that_upsamples_is_known() -> None:
    applied = Applied(
        chain(lambda m, x: m.conv(m.up(x)), up=nn.Upsample(scale_factor=2), conv=nn.Conv2d(8, 8, 3, padding=1)),
        transpose_after_nearest,
    )  # fmt: skip
    assert applied.fired == [1]
    assert applied.exact()


KEPT = {
    "no padding": (up(2), nn.Conv2d(8, 8, 3)),
    "a stride": (up(2), nn.Conv2d(8, 8, 3, stride=2, padding=1)),
    "a dilation": (up(2), nn.Conv2d(8, 8, 3, padding=2, dilation=2)),
    "groups": (up(2), nn.Conv2d(8, 8, 3, padding=1, groups=2)),
    "reflection": (up(2), nn.Conv2d(8, 8, 3, padding=1, padding_mode="replicate")),
    "an even kernel": (up(2), nn.Conv2d(8, 8, 2, padding=1)),
    "factor 1": (up(1), nn.Conv2d(8, 8, 3, padding=1)),
    "bilinear": (
        lambda m, x: m.conv(F.interpolate(x, scale_factor=2, mode="bilinear")),
        nn.Conv2d(8, 8, 3, padding=1),
    ),
    "another reader": (
        lambda m, x: (lambda y: m.conv(y) + y)(F.interpolate(x, scale_factor=2, mode="nearest")),
        nn.Conv2d(8, 8, 3, padding=1),
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_other_upsampled_maps_stay(name: str) -> None:
    compute, conv = KEPT[name]
    assert Applied(chain(compute, conv=conv), transpose_after_nearest).fired == [0]


# --- a shuffled map and an upsampled one are added -----------------------------------------


def added(m: Any, x: Tensor) -> Tensor:
    return m.shuffle(m.conv(x)) + F.interpolate(x, scale_factor=2, mode="nearest")


def added_in_other_order(m: Any, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest") + m.shuffle(m.conv(x))


@pytest.mark.parametrize("compute", [added, added_in_other_order])
def test_maps_are_added_before_the_shuffle(compute: Any) -> None:
    conv = nn.Conv2d(8, 32, 3, padding=1)
    applied = Applied(chain(compute, conv=conv, shuffle=nn.PixelShuffle(2)), add_before_shuffle)
    assert applied.fired == [1]
    assert applied.exact()


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.shuffle(m.conv(x)) + F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda m, x: m.shuffle(F.relu(m.conv(x))) + F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda m, x: (lambda y: y + F.interpolate(x, scale_factor=2, mode="nearest") + y)(
            m.shuffle(m.conv(x))
        ),
    ],
    ids=["bilinear", "channels not known", "another reader"],
)  # fmt: skip
def test_other_sums_stay(compute: Any) -> None:
    conv = nn.Conv2d(8, 32, 3, padding=1)
    module = chain(compute, conv=conv, shuffle=nn.PixelShuffle(2))
    assert Applied(module, add_before_shuffle).fired == [0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.shuffle(m.conv(x)) + F.interpolate(m.gray(x), scale_factor=2, mode="nearest"),
        lambda m, x: m.shuffle(m.one(x)) + F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda m, x: m.shuffle(m.conv(x)) + F.interpolate(x[:, :1], scale_factor=2, mode="nearest"),
    ],
    ids=["fewer channels", "more channels", "channels not known"],
)  # fmt: skip
def test_sums_of_unlike_maps_stay(compute: Any) -> None:
    """Such a sum broadcasts one of the maps."""
    layers = {"conv": nn.Conv2d(8, 32, 3, padding=1), "one": nn.Conv2d(8, 4, 1)}
    module = chain(compute, gray=nn.Conv2d(8, 1, 1), shuffle=nn.PixelShuffle(2), **layers)
    applied = Applied(module, add_before_shuffle)
    assert applied.fired == [0]
    assert applied.exact()


# --- in networks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "runtime", "fired"),
    [
        ("Compact", Runtime.ANY, {}),
        ("Compact", Runtime.OPENVINO, {"add_before_shuffle": 1}),
        ("Compact", Runtime.TENSORRT, {"prelu_by_maximum": 4}),
        ("ESRGAN", Runtime.ANY, {"fold_gains": 3}),
        ("ESRGAN", Runtime.TENSORRT, {"fold_gains": 3, "transpose_after_nearest": 2}),
        ("RealPLKSR", Runtime.ANY, {"mish_by_sigmoid": 2}),
        ("RealPLKSR", Runtime.OPENVINO, {}),
        ("RCAN", Runtime.ANY, {"fuse_tail": 1}),
    ],
)
def test_rules_fire_in_networks_of_others(
    name: str, runtime: Runtime, fired: dict[str, int], tmp_path: Path
) -> None:
    checkpoint = foreign_checkpoint(tmp_path / "net.pth", name)
    plan = ExportPlan(
        checkpoint=checkpoint, output=tmp_path / "net.onnx", runtime=runtime, tracer=Tracer.SYMBOLIC
    )
    assert float32_graph(read_network(checkpoint, NetworkOptions()), plan).fired == fired
