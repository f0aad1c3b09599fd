"""Cost: the arithmetic and the largest tensor of a network, for one pixel of its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from paragon_export.networks.dispatch import DispatchMode
from paragon_export.specs.network import Port


class _Counter(DispatchMode):
    """Within it, ``flops`` adds up what PyTorch's table of operators gives for each call.

    ``values`` is the number of values of the largest result. PyTorch's own counter would import
    Dynamo.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if count := flop_registry.get(func.overloadpacket):
            self.flops += int(count(*args, **kwargs, out_val=result))
        if isinstance(result, torch.Tensor):
            self.values = max(self.values, result.numel())
        return result


COUNTED_PX = 64
"""Side of the image on which costs are counted: several attention windows."""


@dataclass(frozen=True)
class Cost:
    """What a network costs for one pixel of its input."""

    flops: float
    """FLOPs of the convolutions and products."""
    values: float
    """Values of the largest tensor. Runtimes hold about three such tensors at a time."""


def cost_per_pixel(module: nn.Module, inputs: Sequence[Port], smallest: int = 1) -> Cost:
    """Count what a network costs for one pixel of its input.

    Attention over the whole picture costs more a pixel on larger pictures.

    Args:
        module: A network that takes images, in float32.
        inputs: Its inputs.
        smallest: Least height and width in pixels at which it is defined.
    """
    side = max(COUNTED_PX, smallest)
    extents = {"batch": 1, "height": side, "width": side}
    shapes = [[int(dim) for dim in port.at(extents).dims] for port in inputs]
    with torch.no_grad(), _Counter() as counter:
        module(*(torch.zeros(shape) for shape in shapes))
    return Cost(counter.flops / side**2, counter.values / side**2)
