"""Feeds: arrays checked against a port before any runtime sees them.

Runtimes disagree on a bad primitive ID: PyTorch raises, ONNX Runtime wraps -1 around, OpenVINO
takes a row of zeros. Here every backend refuses it in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from paragon_export.errors import PlanError
from paragon_export.specs.network import Port


def checked(ports: Sequence[Port], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``feeds`` with the array of every port that has a span checked and converted.

    Args:
        ports: Inputs; those without a span are passed through.
        feeds: Input name to array. IDs may be of any integer type and become the port's.

    Raises:
        PlanError: If an array has another shape or kind of type than its port, or a value
            outside the port's span.
    """
    accepted = dict(feeds)
    for port in ports:
        if port.span is not None and port.name in accepted:
            accepted[port.name] = _accept(port, port.span, np.asarray(accepted[port.name]))
    return accepted


def _accept(port: Port, span: tuple[float, float], array: np.ndarray) -> np.ndarray:
    wanted = " x ".join(str(dim) for dim in port.dims)
    if array.ndim != len(port.dims) or any(
        isinstance(dim, int) and dim != extent
        for dim, extent in zip(port.dims, array.shape, strict=True)
    ):
        raise PlanError(f"{port.name} has shape {list(array.shape)}; expected {wanted}")
    whole = np.dtype(port.dtype).kind == "i"
    if array.dtype.kind not in ("iu" if whole else "f"):
        kind = "whole numbers" if whole else "floating point"
        raise PlanError(f"{port.name} holds {array.dtype}; expected {kind}")
    low, high = span
    if array.size and not (array.min() >= low and array.max() <= high):
        what = "IDs" if whole else "values"
        raise PlanError(
            f"{port.name} holds {what} from {array.min()} to {array.max()}; "
            f"expected {what} from {low} to {high}"
        )
    return array.astype(port.dtype, copy=False)
