"""Patches of spandrel's code where exporters would make constants.

What is patched computes the same in PyTorch.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from paragon_export.networks.ops import reflected

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


def patch_padding(prefixes: Sequence[str]) -> None:
    """Replace the padding of spandrel by one without a branch on the size, wherever it is used."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(tuple(prefixes)):
            original: Any = vars(module).get("pad_to_multiple")
            if isinstance(original, FunctionType) and original.__module__ != __name__:
                vars(module)["pad_to_multiple"] = padding_without_branch(original)


def padding_without_branch(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``pad_to_multiple(tensor, multiple, *, mode)`` for maps (N, C, H, W).

    Reflection is done by indices; for other modes the original is called.
    """

    def pad_to_multiple(tensor: Tensor, multiple: int, *, mode: str, value: float = 0.0) -> Tensor:
        if mode != "reflect":
            return original(tensor, multiple, mode=mode, value=value)
        for dim in (2, 3):
            extent = tensor.shape[dim]
            padded = (extent + multiple - 1) // multiple * multiple
            tensor = tensor.index_select(dim, reflected(tensor, dim, padded))
        return tensor

    pad_to_multiple.__module__ = __name__
    return pad_to_multiple


torch.fx.wrap("reflected")  # recorded as one call by a trace, also when functions here call it


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
