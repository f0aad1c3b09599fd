"""How PyTorch computes on a CPU: half precision as a GPU does, and float64 in less time.

In half precision operators compute in float32, and results are rounded. PyTorch's own half kernels
for CPUs accumulate in float32 as well, but they are several times slower and depend on the
instruction set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from paragon_export.networks.dispatch import DispatchMode

HALF_STEP = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}
"""The smallest distance from a value to the border of its rounding interval, relative to it."""

NUDGE = 0.25
"""Part of that distance by which results are moved at most before they are rounded."""

NOISE_VALUES = 2**20
"""Length of the random sequence that nudges are taken from; drawing them all would be slow."""

BLOCK_VALUES = 2**18
"""Values of the channels that are computed together, 2 MiB, which stay in the processor's cache."""


class HalfArithmetic(DispatchMode):
    """Within it, operators on tensors of a half type compute in float32 and round their results.

    Views and conversions of types are executed as they are. A result keeps the type that PyTorch
    gives it: float32 if another operand is float32.
    """

    def __init__(self, dtype: torch.dtype, nudge: int = 0) -> None:
        """Set the type and the rounding.

        Args:
            dtype: ``torch.float16`` or ``torch.bfloat16``.
            nudge: 0 rounds to the nearest value. Another number moves each result at random
                before it is rounded, by at most 1/8 of a rounding step: another valid rounding
                of the same network. The number is the seed.
        """
        super().__init__()
        self.dtype = dtype
        self._random = torch.Generator()
        self._factors: Tensor | None = None
        if nudge:
            self._factors, state = _drawn_factors(dtype, nudge)
            self._random.set_state(state)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func is torch.ops.aten._to_copy.default or self._is_wide(args):
            return func(*args, **kwargs)
        wide = {name: _mapped(self._widened, value) for name, value in kwargs.items()}
        results = func(*(_mapped(self._widened, value) for value in args), **wide)
        if _works_in_place(func):
            return args[0].copy_(self._rounded(results))
        if kwargs.get("dtype") is torch.float32:
            return results
        return _mapped(self._rounded, results)

    def _is_wide(self, args: Sequence[Any]) -> bool:
        """Return whether no operand is half, or one is wide, so that the result is wide too."""
        has_half = False
        for tensor in _tensors_in(args):
            if tensor.dtype == self.dtype:
                has_half = True
            elif tensor.is_floating_point() and tensor.ndim:
                return True
        return not has_half

    def _widened(self, tensor: Tensor) -> Tensor:
        return tensor.float() if tensor.dtype == self.dtype else tensor

    def _rounded(self, result: Tensor) -> Tensor:
        if result.dtype != torch.float32:
            return result
        if self._factors is not None:
            result = result * self._nudges(result.numel()).reshape(result.shape)
        return result.to(self.dtype)

    def _nudges(self, count: int) -> Tensor:
        """Return random factors close to 1: a random part of one sequence, repeated if short."""
        assert self._factors is not None
        first = int(torch.randint(NOISE_VALUES // 2, (1,), generator=self._random))
        part = self._factors[first : first + min(count, NOISE_VALUES // 2)]
        return part if len(part) == count else part.repeat(-(-count // len(part)))[:count]


class DoubleArithmetic(TorchFunctionMode):
    """Within it, depthwise convolutions in float64 are computed as sums of shifted maps.

    PyTorch computes one channel after another in float64, on one thread.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = _convolved if func is torch.conv2d else func
        return run(*args, **(kwargs or {}))


def rounded_weights(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """Return a float32 copy of a module whose weights are off by roundings to a half type.

    Each weight is moved at random by at most half a step of the type. So it errs as much as the
    nearest half value does, but independently of it: as a weight into which a gain or a norm was
    folded before it was rounded. Weights that the type holds exactly stay.

    Args:
        module: In float32. It is not changed.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        seed: Of the random numbers.
    """
    copy, random, limits = deepcopy(module), torch.Generator().manual_seed(seed), torch.finfo(dtype)
    with torch.no_grad():
        for weight in (*copy.parameters(), *copy.buffers()):
            if weight.dtype == torch.float32:
                power = torch.frexp(weight).exponent - 1  # of the largest power of two in it
                step = limits.eps * torch.ldexp(torch.ones_like(weight), power).clamp_min(
                    limits.tiny
                )
                noise = torch.rand(weight.shape, generator=random) - 0.5
                weight += torch.where(weight.to(dtype) == weight, 0.0, step * noise)
    return copy


@lru_cache(maxsize=4)
def _drawn_factors(dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Return random factors close to 1, and the state of the generator that drew them."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(NOISE_VALUES, generator=random)
    return 1 + NUDGE * HALF_STEP[dtype] * (2 * noise - 1), random.get_state()


@cache
def _works_in_place(func: Any) -> bool:
    """Return whether an operator writes its result to its first operand."""
    return any(result.alias_info is not None for result in func._schema.returns)


def _tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of an operator, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return an argument or result of an operator with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, each) for each in value)
    return value


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return what ``torch.conv2d`` returns."""
    is_depthwise = x.dim() == 4 and groups == x.shape[1] == weight.shape[0] > 1
    is_float64 = x.dtype == torch.float64 and x.device.type == "cpu"
    if not (is_depthwise and is_float64) or isinstance(padding, str) or set(_pair(stride)) != {1}:
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return _shifted_sum(x, weight[:, 0], bias, _pair(padding), _pair(dilation))


def _shifted_sum(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return a depthwise convolution of stride 1.

    Args:
        x: (N, C, H, W).
        weight: (C, rows, columns).
        bias: (C), or None.
        padding: Zeros above and below, and at the left and at the right.
        dilation: Distance of the weights in pixels, along both axes.
    """
    channels, rows, columns = weight.shape
    (top, left), (down, across) = padding, dilation
    padded = pad(x, (left, left, top, top))
    height = padded.shape[2] - down * (rows - 1)
    width = padded.shape[3] - across * (columns - 1)
    first = x.new_zeros(channels) if bias is None else bias
    result = first[:, None, None].expand(len(x), -1, height, width).contiguous()
    block = max(1, BLOCK_VALUES // (len(x) * height * width))
    for start in range(0, channels, block):
        some = slice(start, start + block)
        for row in range(rows):
            for column in range(columns):
                moved = padded[:, some, row * down :, column * across :][..., :height, :width]
                result[:, some].addcmul_(moved, weight[some, row, column, None, None])
    return result
