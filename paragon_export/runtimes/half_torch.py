"""Half precision in PyTorch on a CPU: operators compute in float32, and results are rounded.

This is the arithmetic of a GPU. PyTorch's own half kernels for CPUs accumulate in float32 as well,
but they are several times slower and depend on the instruction set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

HALF_STEP = {torch.float16: 2.0**-12, torch.bfloat16: 2.0**-9}
"""The smallest distance from a value to the border of its rounding interval, relative to it."""

NUDGE = 0.25
"""Part of that distance by which results are moved at most before they are rounded."""

NOISE_VALUES = 2**20
"""Length of the random sequence that nudges are taken from; drawing them all would be slow."""


class HalfArithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        self._random = torch.Generator().manual_seed(nudge)
        self._factors: Tensor | None = None
        if nudge:
            noise = torch.rand(NOISE_VALUES, generator=self._random)
            self._factors = 1 + NUDGE * HALF_STEP[dtype] * (2 * noise - 1)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and to skip Dynamo would import it, for 2 s."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func is torch.ops.aten._to_copy.default or self._is_wide(args):
            return func(*args, **kwargs)
        wide = tree_map_only(Tensor, self._widened, (tuple(args), kwargs))
        results = func(*wide[0], **wide[1])
        if any(r.alias_info is not None for r in func._schema.returns):  # it works in place
            return args[0].copy_(self._rounded(results))
        if kwargs.get("dtype") is torch.float32:
            return results
        return tree_map_only(Tensor, self._rounded, results)

    def _is_wide(self, args: Sequence[Any]) -> bool:
        """Return whether no operand is half, or one is wide, so that the result is wide too."""
        tensors: list[Tensor] = []
        tree_map_only(Tensor, tensors.append, tuple(args))
        wide = any(t.is_floating_point() and t.dtype != self.dtype and t.ndim for t in tensors)
        return wide or all(t.dtype != self.dtype for t in tensors)

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
