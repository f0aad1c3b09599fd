"""Mark the parts of a network that are computed in float32 even in half precision.

Such a part is called a float32 island. It begins with ``widen`` and ends with ``narrow`` in the
network's own code. PyTorch executes these calls, and the tracer marks the same nodes of the ONNX
graph, so both compute the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return a float16 or bfloat16 tensor in float32, and any other unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` in the dtype of ``like``, at the end of a float32 island."""
    return x.to(like.dtype)
