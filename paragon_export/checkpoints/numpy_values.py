"""Numbers and arrays of NumPy in a pickle, rebuilt without NumPy's own functions.

Trainers store them in checkpoints, as their best metric or the state of a random generator.
NumPy's functions make anything that a file names, objects included. Those of this module make
plain numbers and texts, and arrays whose content is not kept: no network takes weights from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

DTYPE, ARRAY = "numpy.dtype", "numpy.ndarray"
"""The names of NumPy's classes in a pickle."""

MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Where NumPy 1 and NumPy 2 have the functions that rebuild numbers and arrays."""

SCALARS = frozenset(f"{module}.scalar" for module in MODULES)

ARRAYS = frozenset(f"{module}._reconstruct" for module in MODULES)

ORDERS = ("<", ">", "|", "=")
"""Byte orders in the state of a type: little, big, none and that of the machine."""

_TYPES = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|U[1-9]\d{0,3}", re.ASCII)

_loading = Lock()


def is_plain(code: Any) -> bool:
    """Return whether a type, as ``"f8"``, is one of numbers, booleans or short texts."""
    return isinstance(code, str) and _TYPES.fullmatch(code) is not None


class PlainType:
    """Stands for ``numpy.dtype``. ``dtype`` is the type that it describes."""

    def __init__(self, code: str, *_: Any) -> None:
        """Take the kind and the bytes of a type, as ``"f8"``.

        Raises:
            ValueError: If it is none of ``is_plain``.
        """
        if not is_plain(code):
            raise ValueError(f"NumPy's type {str(code)[:20]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Set the byte order, the second value of NumPy's state of a type."""
        self.dtype = self.dtype.newbyteorder(state[1])


class UnusedArray:
    """Stands for ``numpy.ndarray``. It holds nothing."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the shape, the type and the content."""


def scalar(kind: PlainType, data: bytes) -> Any:
    """Return the number or text that NumPy stored as bytes, as Python's own type.

    Raises:
        ValueError: If the bytes are not exactly one value of this type.
    """
    (value,) = np.frombuffer(data, kind.dtype).tolist()
    return value


def array(*_: Any) -> UnusedArray:
    """Return the placeholder for an array. Its state is set afterwards."""
    return UnusedArray()


@contextmanager
def numpy_values() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` call these functions in place of NumPy's.

    What the application allows PyTorch to build is not allowed meanwhile, in any thread.
    """
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

    functions: dict[str, Callable[..., Any]] = {DTYPE: PlainType, ARRAY: UnusedArray}
    functions |= dict.fromkeys(SCALARS, scalar) | dict.fromkeys(ARRAYS, array)
    with _loading:
        before = get_safe_globals()
        clear_safe_globals()
        add_safe_globals([(function, name) for name, function in functions.items()])
        try:
            yield
        finally:
            clear_safe_globals()
            add_safe_globals(before)
