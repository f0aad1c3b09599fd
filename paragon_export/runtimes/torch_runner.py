"""TorchRunner: run a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from paragon_export.errors import OutOfMemoryError, is_memory_error
from paragon_export.runtimes.base import Arrays, reason_of_runtime
from paragon_export.runtimes.validate import checked
from paragon_export.specs.network import Port

if TYPE_CHECKING:
    import torch
    from torch import nn


class TorchRunner:
    """A PyTorch module that computes in one dtype on one device; a :class:`Runner`."""

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[str],
        outputs: Sequence[str],
        dtype: str = "float32",
        device: str = "cpu",
        ports: Sequence[Port] = (),
        nudge: int = 0,
        channels_last: bool = False,
    ) -> None:
        """Copy a module to a dtype and a device.

        Args:
            module: A network. It is not changed. In float32 it runs without a copy if it is on the
                device and in eval mode already.
            inputs: Names of the arguments of its ``forward``, in order.
            outputs: Names of its results, in order.
            dtype: Name of a floating dtype of PyTorch, of the weights and the arithmetic.
            device: Name of a device of PyTorch.
            ports: Inputs whose arrays are checked (see ``validate.checked``).
            nudge: For a half type on the CPU: which rounding is computed (``HalfArithmetic``).
            channels_last: Lay the channels of a pixel side by side: convolutions are faster so in
                float32. Not for networks that call ``view`` on maps.
        """
        import torch

        self.name = f"PyTorch {dtype}"
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.dtype, self.device = getattr(torch, dtype), device
        self.ports, self.nudge = tuple(ports), nudge
        self.channels_last = channels_last
        self.module = _at(module, self.device, self.dtype)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        """Run the network once (see ``Runner.infer``).

        Outputs are float64 if the network computes in float64, else float32.

        Raises:
            OutOfMemoryError: If PyTorch cannot allocate the memory.
            PlanError: If an ID or a cell is invalid.
        """
        import torch

        results = self._run(self._tensors(feeds))
        # NumPy has no bfloat16. Float64 keeps its precision.
        wide = [r if r.dtype == torch.float64 else r.float() for r in results]
        return {n: r.cpu().numpy() for n, r in zip(self.outputs, wide, strict=True)}

    def prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Copy the inputs to the device (see ``DeviceRunner.prepare``)."""
        import torch

        tensors = self._tensors(feeds)

        def run() -> None:
            self._run(tensors)
            if self.device != "cpu":
                torch.cuda.synchronize()

        return run

    def _tensors(self, feeds: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
        import torch

        feeds = checked(self.ports, feeds)
        arrays = (torch.from_numpy(np.asarray(feeds[name])).to(self.device) for name in self.inputs)
        tensors = [t.to(self.dtype) if t.is_floating_point() else t for t in arrays]
        if not self.channels_last:
            return tensors
        layout = torch.channels_last
        return [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors]

    def _run(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        import torch

        try:
            with torch.inference_mode(), self._arithmetic():
                results = self.module(*tensors)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise  # a fault of this tool
            shapes = ", ".join(str(list(t.shape)) for t in tensors)
            raise OutOfMemoryError(
                f"{self.name} finds no memory for {shapes}: {reason_of_runtime(error)}; use a "
                "smaller input"
            ) from error
        return results if isinstance(results, tuple) else (results,)

    def _arithmetic(self) -> AbstractContextManager[object]:
        """Return the context for the CPU: half types are rounded as on a GPU, float64 is faster."""
        import torch

        from paragon_export.runtimes.torch_arithmetic import DoubleArithmetic, HalfArithmetic

        if self.device != "cpu":
            return nullcontext()
        if self.dtype == torch.float64:
            return DoubleArithmetic()
        is_half = self.dtype in (torch.float16, torch.bfloat16)
        return HalfArithmetic(self.dtype, self.nudge) if is_half else nullcontext()


def _at(module: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a module, or itself if it is in float32, eval mode and on the device."""
    import copy

    import torch

    def fits(tensor: torch.Tensor) -> bool:
        right_type = tensor.dtype == torch.float32 or not tensor.is_floating_point()
        return right_type and str(tensor.device) == device

    tensors = (*module.parameters(), *module.buffers())
    if dtype == torch.float32 and not module.training and all(map(fits, tensors)):
        return module
    return copy.deepcopy(module).to(device=device, dtype=dtype).eval()
