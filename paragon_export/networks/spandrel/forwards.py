"""Code of spandrel's networks in a form that exporters can follow.

The network to be exported gets it, the reference does not. So the verdict says whether both compute
the same.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Sequence
from functools import cache
from types import FunctionType, MethodType
from typing import Any, cast

from torch import nn

SUBSTITUTIONS: Sequence[tuple[str, str]] = (
    # RealCUGAN: what is exported is float32, and cropping to the whole extent changes nothing.
    ('if "Half" in x.type():', "if False:"),
    ("if w0 != pw or h0 != ph:", "if True:"),
    # SAFMN: the image is padded so that all extents are multiples of this one.
    ("F.adaptive_max_pool2d(xc[i], p_size)", "F.max_pool2d(xc[i], 2**i)"),
    # DySample: the size of the image as a tensor, not as numbers.
    (
        "torch.tensor(\n        [W, H],\n        dtype=x.dtype,\n        device=x.device,\n"
        "        pin_memory=False,  # pin_memory was originally True\n    )",
        "torch.stack((torch.as_tensor(W), torch.as_tensor(H))).to(x)",
    ),
    (
        "torch.tensor(\n        [W, H], dtype=x.dtype, device=x.device, pin_memory=True\n    )",
        "torch.stack((torch.as_tensor(W), torch.as_tensor(H))).to(x)",
    ),
    # DITN: the shape of the tensor that is traced.
    ("x.data.shape", "x.shape"),
    # FBCNN: padding in whole numbers, without a new layer in every run.
    ("int(np.ceil(h / 8) * 8 - h)", "-h % 8"),
    ("int(np.ceil(w / 8) * 8 - w)", "-w % 8"),
    (
        "nn.ReplicationPad2d((0, paddingRight, 0, paddingBottom))(x)",
        'nn.functional.pad(x, (0, paddingRight, 0, paddingBottom), mode="replicate")',
    ),
)
"""Texts in ``forward`` functions, and what exporters can follow."""


def substitute_forwards(module: nn.Module) -> int:
    """Replace the texts of ``SUBSTITUTIONS`` in the layers of a module.

    The classes stay as they are: each layer gets a function of its own.

    Returns:
        How many layers were changed.
    """
    changed = 0
    for part in module.modules():
        kind: Any = type(part)
        forward = _substituted(kind)
        if forward is not None:
            object.__setattr__(part, "forward", MethodType(forward, part))
            changed += 1
    return changed


@cache
def _substituted(kind: Any) -> FunctionType | None:
    """Return the changed ``forward`` of a class of layers; None if it has none of the texts."""
    if not kind.__module__.startswith("spandrel"):
        return None
    return _with_texts(kind, SUBSTITUTIONS)


def _with_texts(kind: Any, texts: Sequence[tuple[str, str]]) -> FunctionType | None:
    """Return the ``forward`` of a class with other texts; None if it has none of them."""
    forward = kind.forward
    if not isinstance(forward, FunctionType):
        return None
    try:
        source = textwrap.dedent(inspect.getsource(forward))
    except OSError:  # installed without sources; the verdict says whether the file is right
        return None
    changed = source
    for text, replacement in texts:
        changed = changed.replace(text, replacement)
    if changed == source:
        return None
    found: dict[str, FunctionType] = {}
    exec(compile(changed, inspect.getfile(kind), "exec"), forward.__globals__, found)
    function: Any = found["forward"]
    function.__wrapped__ = forward  # inspect then finds the source of the original
    return cast(FunctionType, function)


def run_without_cuda() -> None:
    """Let the DySample layer of FDAT run on any machine.

    It asks for pinned memory, which PyTorch refuses without CUDA, and which changes no value.
    """
    fdat: Any = importlib.import_module("spandrel.architectures.FDAT.__arch.fdat")
    unpinned = _with_texts(fdat.DySample, [("pin_memory=True", "pin_memory=False")])
    if unpinned is not None:
        fdat.DySample.forward = unpinned
