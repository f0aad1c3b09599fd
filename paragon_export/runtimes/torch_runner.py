"""Runners: anything that executes a network, behind one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import OutOfMemoryError, is_memory_error
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port

if TYPE_CHECKING:
    from torch import nn


class TorchRunner:
    """A PyTorch module in the arithmetic of one dtype, on a device of PyTorch's."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        dtype: str = "float32",
        device: str = "cpu",
        ports: Sequence[Port] = (),
    ) -> None:
        """Copy ``module`` to ``dtype``; ``module`` itself is not changed.

        ``ports`` are the inputs whose arrays are checked.
        """
        import copy

        import torch

        self.name = f"PyTorch {dtype}"
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.dtype, self.device = getattr(torch, dtype), device
        self.ports = tuple(ports)
        self.module = copy.deepcopy(module).to(device=device, dtype=self.dtype).eval()
        if dtype == "float16" and device == "cpu":
            _spare_wide_kernels(self.module)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        import torch

        feeds = checked(self.ports, feeds)
        given = [torch.from_numpy(np.asarray(feeds[name])) for name in self.inputs]
        tensors = [t.to(self.device, self.dtype if t.is_floating_point() else None) for t in given]
        try:
            with torch.inference_mode():
                results = self.module(*tensors)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise  # a fault of this tool
            shapes = ", ".join(str(list(t.shape)) for t in tensors)
            raise OutOfMemoryError(
                f"{self.name} finds no memory for {shapes}: {reason_of_runtime(error)}"
            ) from error
        results = results if isinstance(results, tuple) else (results,)
        # bfloat16 is unknown to NumPy, and float64 must stay whole.
        wide = [r if r.dtype == torch.float64 else r.float() for r in results]
        return {n: r.cpu().numpy() for n, r in zip(self.outputs, wide, strict=True)}


def _spare_wide_kernels(module: nn.Module) -> None:
    """Let wide depthwise convolutions of a float16 network compute in float32 and round.

    oneDNN never returns from some of them (PyTorch 2.13: 1x15 and wider, pictures of 31 pixels
    and more). It sums in float32 too, so the result is the same.
    """
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.kernel_size) > 13:
            layer.float()  # of weights that were rounded before
            layer.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
            layer.register_forward_hook(lambda _, inputs, result: result.half())
