"""Means over whole pictures: recorded on a picture, used again on a part of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SPATIAL = {(2, 3), (-2, -1), (3, 2), (-1, -2)}
"""Dimensions of a map over which a mean is one over the whole picture."""


class PictureMeans(TorchFunctionMode):
    """Within it, means of maps (N, C, H, W) over H and W are recorded, or taken from a recording.

    A network with such means computes on a part of a picture what it computes on the whole one,
    if it is given the means of the whole one. The calls must come in the same order.
    """

    def __init__(self, recorded: Sequence[Tensor] | None = None) -> None:
        """Take the means to use in place of computed ones; None records.

        Recorded means are computed in float64.
        """
        super().__init__()
        self.recorded: list[Tensor] = [] if recorded is None else list(recorded)
        self._given: Iterator[Tensor] | None = None if recorded is None else iter(self.recorded)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (torch.mean, Tensor.mean) or not _is_over_picture(args, kwargs):
            return func(*args, **kwargs)
        x = args[0]
        if self._given is not None:
            return next(self._given).to(x.dtype)
        mean = func(x.double(), *args[1:], **kwargs)
        self.recorded.append(mean)
        return mean.to(x.dtype)


def _is_over_picture(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    is_map = isinstance(args[0], Tensor) and args[0].dim() == 4
    return is_map and isinstance(dims, (tuple, list)) and tuple(dims) in SPATIAL
