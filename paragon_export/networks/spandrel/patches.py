"""Patches of spandrel's code where exporters would make constants.

What is patched computes the same in PyTorch.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FLOAT_BATCH = re.compile(
    r"int\((\w+)\.shape\[0\] / \((\w+) \* (\w+) / ([\w\[\]]+) / ([\w\[\]]+)\)\)"
)
"""The number of pictures, computed from the number of windows in floating point. Exporters make a
constant of it, and the file is wrong for every other batch."""

WHOLE_BATCH = r"\1.shape[0] // ((\2 // \4) * (\3 // \5))"
"""The same in whole numbers."""


def patch_batches(prefixes: Sequence[str]) -> list[str]:
    """Replace ``FLOAT_BATCH`` in the functions of all loaded modules whose names begin so.

    Returns:
        The names of the functions that were replaced.
    """
    patched = []
    for module in list(sys.modules.values()):
        if not getattr(module, "__name__", "").startswith(tuple(prefixes)):
            continue
        for name, function in list(vars(module).items()):
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                patched += [f"{module.__name__}.{name}"] * _patch(module, name, function)
    return patched


def _patch(module: ModuleType, name: str, function: FunctionType) -> bool:
    """Replace one function of a module if it computes the batch so."""
    if "int" not in function.__code__.co_names:
        return False
    try:
        source = inspect.getsource(function)
    except OSError:  # installed without sources; the verdict says whether the file is right
        return False
    patched = FLOAT_BATCH.sub(WHOLE_BATCH, source)
    if patched == source:
        return False
    exec(compile(patched, inspect.getfile(function), "exec"), vars(module))
    return vars(module)[name] is not function


def merge_once(module: nn.Module) -> None:
    """Compute once what a network computes from its weights alone in every run, as SPAN does.

    SPAN merges convolutions whenever it runs and overwrites weights, which PyTorch's exporters cannot
    follow.
    """
    for part in module.modules():
        update: Any = getattr(part, "update_params", None)
        if callable(update):
            update()
            object.__setattr__(part, "update_params", _nothing)


def _nothing() -> None:
    """Do nothing."""
