"""A base class for modes that see every operator that PyTorch executes."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A mode of PyTorch that is entered without importing Dynamo, which would take 2 s.

    Subclasses define ``__torch_dispatch__``. Nothing may be compiled within it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
