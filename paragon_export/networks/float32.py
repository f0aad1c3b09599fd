"""Where a network must be computed in float32 even when it is deployed in half precision.

A network says so itself, next to the arithmetic that needs it: what lies between ``widen``
and ``narrow`` is a float32 island. PyTorch obeys when it runs the network in half precision,
and the tracer marks the same nodes in the ONNX graph, so both come from one statement.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or unchanged where it is float32 or float64 already."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def narrow(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` in the dtype of ``like``: the end of an island."""
    return x.to(like.dtype)
