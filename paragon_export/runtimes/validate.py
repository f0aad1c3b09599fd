"""Validate: check inputs before a runtime sees them, and outputs after.

Runtimes treat an invalid primitive ID differently: PyTorch raises, ONNX Runtime wraps -1 around,
OpenVINO returns a row of zeros. The check gives the same error for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from paragon_export.errors import PlanError, RunError
from paragon_export.specs.network import Port


def checked(ports: Sequence[Port], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``feeds`` with the arrays of all ports that have a span checked and converted.

    Args:
        ports: Inputs. Arrays of ports without a span are not checked.
        feeds: Input name to array. IDs may have any integer dtype and get that of the port.

    Raises:
        PlanError: If an array differs from its port in shape or kind of dtype, or holds a value
            outside the span of the port.
    """
    accepted = dict(feeds)
    for port in ports:
        if port.span is not None and port.name in accepted:
            accepted[port.name] = _checked_array(port, port.span, np.asarray(accepted[port.name]))
    return accepted


def _checked_array(port: Port, span: tuple[float, float], array: np.ndarray) -> np.ndarray:
    expected = " x ".join(str(dim) for dim in port.dims)
    if array.ndim != len(port.dims) or any(
        isinstance(dim, int) and dim != extent
        for dim, extent in zip(port.dims, array.shape, strict=True)
    ):
        raise PlanError(f"{port.name} has shape {list(array.shape)}; expected {expected}")
    is_integer = np.dtype(port.dtype).kind == "i"
    if array.dtype.kind not in ("iu" if is_integer else "f"):
        kind = "integers" if is_integer else "floating point"
        raise PlanError(f"{port.name} holds {array.dtype}; expected {kind}")
    low, high = span
    if array.size and not (array.min() >= low and array.max() <= high):
        what = "IDs" if is_integer else "values"
        raise PlanError(
            f"{port.name} holds {what} from {array.min()} to {array.max()}; "
            f"expected {what} from {low} to {high}"
        )
    return array.astype(port.dtype, copy=False)


def check_complete(runner: str, inputs: Iterable[str], feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse feeds that lack an input of the model.

    Raises:
        RunError: Naming the missing inputs.
    """
    missing = sorted(set(inputs) - set(feeds))
    if missing:
        raise RunError(
            f"{runner} was fed {', '.join(feeds) or 'nothing'}; the model also needs "
            f"{', '.join(missing)}"
        )


def as_numbers(name: str, result: object) -> np.ndarray:
    """Return an output of a runtime as an array of numbers.

    Raises:
        RunError: If it holds text, or is no tensor.
    """
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        raise RunError(f"output {name} holds {array.dtype}; expected numbers")
    return array
