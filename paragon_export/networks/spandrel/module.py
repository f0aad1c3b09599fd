"""The network as spandrel calls it, and the same network with its padding in the graph."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paragon_export.errors import UnsupportedNetworkError, is_memory_error
from paragon_export.networks.ops import reflected
from paragon_export.networks.spandrel.blocks import replace_blocks
from paragon_export.networks.spandrel.forwards import substitute_forwards
from paragon_export.networks.spandrel.norms import replace_group_norms
from paragon_export.networks.spandrel.patches import merge_once

Call = Callable[[nn.Module, Tensor], Tensor]


class ReferenceNetwork(nn.Module):
    """A network as its descriptor calls it: the image is padded, the output is cropped.

    spandrel also clamps the output. Here it is not clamped, so that errors beyond the range are seen.
    """

    def __init__(self, descriptor: Any) -> None:
        super().__init__()
        self.model: nn.Module = descriptor.model
        self.call: Call = descriptor._call_fn
        self.requirements = descriptor.size_requirements
        self.scale = int(descriptor.scale)
        self.name = str(descriptor.architecture.name)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (N, C, H, W) in [0, 1] to (N, C, s*H, s*W) with the upscaling factor s.

        Raises:
            UnsupportedNetworkError: If the network cannot be run.
        """
        height, width = image.shape[-2:]
        pad = importlib.import_module("spandrel.__helpers.size_req").pad_tensor
        try:
            with _default_dtype(image.dtype):
                # Cloned, because RCAN writes into its input.
                output = self.call(self.model, pad(image, self.requirements)[1].clone())
        except RuntimeError as error:
            if is_memory_error(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UnsupportedNetworkError(
                f"{self.name} as spandrel builds it cannot be run in PyTorch on images "
                f"{list(image.shape)}: {reason}"
            ) from error
        return output[..., : height * self.scale, : width * self.scale]

    def padded(self) -> PaddedNetwork:
        """Return the network to be exported: a copy whose padding works for every size."""
        return PaddedNetwork(copy.deepcopy(self))


class PaddedNetwork(nn.Module):
    """A network that pads at the bottom and at the right with operators that any size passes.

    spandrel reflects up to ``size - 1`` rows and repeats the last one beyond. Row ``i`` of the padded
    image is row ``i`` of the image, or ``max(2 (n - 1) - i, 0)`` behind its ``n`` rows.
    """

    def __init__(self, described: ReferenceNetwork) -> None:
        super().__init__()
        self.model, self.call, self.scale = described.model, described.call, described.scale
        requirements = described.requirements
        self.multiple, self.least = requirements.multiple_of, requirements.minimum
        self.square = requirements.square
        merge_once(self.model)
        replace_group_norms(self.model)
        replace_blocks(self.model)
        substitute_forwards(self.model)

    def forward(self, image: Tensor) -> Tensor:
        """As ``ReferenceNetwork.forward``."""
        if self.multiple == 1 and self.least <= 1 and not self.square:
            return self.call(self.model, image.clone())
        height, width = image.shape[2], image.shape[3]
        rows, columns = self._padded(height), self._padded(width)
        if self.square:
            rows = columns = _larger(rows, columns)
        image = image.index_select(2, reflected(image, 2, rows))
        image = image.index_select(3, reflected(image, 3, columns))
        output = self.call(self.model, image)
        return output[:, :, : height * self.scale, : width * self.scale]

    def _padded(self, extent: Any) -> Any:
        """Return the least extent from ``extent`` on that the network takes."""
        whole = (extent + self.multiple - 1) // self.multiple * self.multiple
        return _larger(whole, self.least)


def _larger(extent: Any, other: Any) -> Any:
    """Return the larger extent. TorchScript's exporter has tensors in place of numbers."""
    if isinstance(extent, Tensor):
        return torch.maximum(extent, torch.as_tensor(other))
    return torch.sym_max(extent, other)  # type: ignore[no-untyped-call]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set PyTorch's default dtype for the body: some networks make masks without naming one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
