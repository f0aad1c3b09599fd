"""Means over whole pictures: recorded on a picture, used again on a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
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


class GivenMeans(TorchFunctionMode):
    """Within it, means of maps (N, C, H, W) over H and W, of more than one pixel, are what a function gives for them.

    So are those of ``adaptive_avg_pool2d`` and of group norms, which are means of a map and of its square.
    """

    def __init__(self, batch: int, given: Callable[[Tensor, tuple[int, ...]], Tensor]) -> None:
        """Take what gives the means.

        Args:
            batch: N of maps of the picture. Means of other maps, as of windows, are computed.
            given: Called with a map and powers of it, (1,) or (1, 2); returns the means of these powers, one
                after the other, (N, C * powers), float64.
        """
        super().__init__()
        self._batch, self._given = batch, given

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        is_map = bool(args) and isinstance(args[0], Tensor) and args[0].dim() == 4
        if not is_map or len(args[0]) != self._batch or args[0].shape[2:] == (1, 1):
            return func(*args, **kwargs)
        x = args[0]
        if func in (torch.mean, Tensor.mean) and _is_over_picture(args, kwargs):
            mean = self._given(x, (1,)).to(x)
            keeps = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
            return mean[:, :, None, None] if keeps else mean
        if func is functional.adaptive_avg_pool2d and _is_one(*args[1:], **kwargs):
            return self._given(x, (1,)).to(x)[:, :, None, None]
        if func is functional.group_norm:
            return self._group_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _group_norm(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        n, channels = x.shape[:2]
        means = self._given(x, (1, 2)).to(x.device).reshape(n, 2, num_groups, -1).mean(3)
        mean, square = means.repeat_interleave(channels // num_groups, 2)[..., None, None].unbind(1)
        normed = (x - mean.to(x)) * (square - mean.square() + eps).rsqrt().to(x)
        if weight is not None:
            normed = normed * weight.reshape(1, -1, 1, 1)
        return normed if bias is None else normed + bias.reshape(1, -1, 1, 1)


def _is_one(output_size: int | Sequence[int]) -> bool:
    """Return whether a map is pooled to one value."""
    return output_size == 1 or tuple(output_size if not isinstance(output_size, int) else ()) == (
        1,
        1,
    )


def _is_over_picture(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    is_map = isinstance(args[0], Tensor) and args[0].dim() == 4
    return is_map and isinstance(dims, (tuple, list)) and tuple(dims) in SPATIAL
