"""Alternatives: the networks that a file may hold instead of the one it claims to be.

The tensors are the same and load without complaint; what differs is a switch that tensors cannot
tell, or an operator that was exported as a near relative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from paragon_export.errors import ParagonExportError
from paragon_export.networks.describe import describe
from paragon_export.parity.diagnosis.symptoms import Symptom
from paragon_export.parity.reference import TorchReference, build_reference

OTHER_VALUES: Mapping[str, tuple[Any, ...]] = {
    "window_size": (8, 16, 32),
    "attention_mode": ("sdpa", "none", "local", "global", "hierarchical"),
    "export_safe": (True, False),
    "use_norm": (True, False),
    "activation": ("gelu", "relu"),
    "normalize_embeddings": (True, False),
}
"""What each switch may have been by mistake."""

LINEAR = "upsampler_alpha"
"""The output is linear in it, so one other value tells all."""

STEP = 0.5


@dataclass(frozen=True)
class Alternative:
    """A network that a file may hold instead, and what it is then to be called."""

    symptom: Symptom
    reference: TorchReference
    line: tuple[float, float] | None = None
    """Of a switch in which the output is linear: its value in the truth, and here."""


def alternatives(reference: TorchReference) -> Iterator[Alternative]:
    """Yield networks with other options, with other weights, and with an operator mistaken."""
    network = reference.network
    for name, option in network.spec.options.items():
        start = option.value if name == LINEAR else None
        values = OTHER_VALUES.get(name, ()) if start is None else (start + STEP,)
        for value in values if option.source != "tensors" else ():
            if value == option.value:
                continue
            flags = {**network.options.flags, name: value}
            try:
                other = network.with_options(replace(network.options, flags=flags))
                built = build_reference(other, video=reference.video)
            except ParagonExportError:
                continue  # the network has no such value
            detail = name if start is not None else f"{name} {value}"
            line = None if start is None else (start, value)
            yield Alternative(Symptom("another switch", detail), built, line)
    yield from _other_weights(reference)
    for symptom, mistake in MISTAKES.items():
        yield Alternative(symptom, replace(reference, module=_Mistaken(reference.module, mistake)))


def _other_weights(reference: TorchReference) -> Iterator[Alternative]:
    """Yield the network of the other weights in the file: averaged ones next to the last ones."""
    network = reference.network
    checkpoint = network.checkpoint
    if not checkpoint.container:
        return
    try:
        other = describe(checkpoint.other_weights(), network.options)
        built = build_reference(other, video=reference.video)
    except ParagonExportError:
        return  # there are no others
    detail = f"{other.checkpoint.container} in place of {checkpoint.container}"
    yield Alternative(Symptom("other weights", detail), built)


# --- operators that are taken for others -------------------------------------------------------

Mistake = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions of PyTorch, and what is called in their place."""


class _Swap(TorchFunctionMode):
    """Calls another function wherever a network calls one of PyTorch's."""

    def __init__(self, mistake: Mistake) -> None:
        super().__init__()
        self.mistake = mistake

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.mistake.get(func, func)(*args, **(kwargs or {}))


class _Mistaken(nn.Module):
    """A network in which an operator is taken for another."""

    def __init__(self, network: nn.Module, mistake: Mistake) -> None:
        super().__init__()
        self.network, self.mistake = network, mistake

    def forward(self, *inputs: Tensor) -> Any:
        with _Swap(self.mistake):
            return self.network(*inputs)


def _tanh_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate="tanh" if approximate == "none" else "none")


def _depth_first(x: Tensor, factor: int) -> Tensor:
    """Depth to space in the order DCR: channels vary fastest, as ONNX has it by default."""
    n, c, h, w = x.shape
    grouped = x.reshape(n, factor, factor, c // factor**2, h, w)
    return grouped.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, factor * h, factor * w)


def _columns_first(x: Tensor, factor: int) -> Tensor:
    n, c, h, w = x.shape
    grouped = x.reshape(n, c // factor**2, factor, factor, h, w)
    return grouped.permute(0, 1, 4, 3, 5, 2).reshape(n, -1, factor * h, factor * w)


def _replicated(x: Tensor, factor: int) -> Tensor:
    n, c, h, w = x.shape
    small = x.reshape(n, c // factor**2, factor**2, h, w).mean(2)
    return small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _not_rolled(x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    return x


def _always_forth(x: Tensor, shifts: tuple[int, ...], dims: Any = None) -> Tensor:
    return torch.roll(x, tuple(-abs(s) for s in shifts), dims)


def _interpolated(mode: str, align: bool | None) -> Callable[..., Tensor]:
    def interpolate(x: Tensor, size: Any = None, scale_factor: Any = None, **_: Any) -> Tensor:
        return F.interpolate(x, size, scale_factor, mode=mode, align_corners=align)

    return interpolate


MISTAKES: Mapping[Symptom, Mistake] = {
    Symptom("another activation", "GELU by tanh"): {F.gelu: _tanh_gelu},
    Symptom("pixel order", "depth to space in the order DCR"): {F.pixel_shuffle: _depth_first},
    Symptom("pixel order", "rows and columns swapped"): {F.pixel_shuffle: _columns_first},
    Symptom("nearest", "in place of a pixel shuffle"): {F.pixel_shuffle: _replicated},
    Symptom("windows misplaced", "not rolled"): {torch.roll: _not_rolled},
    Symptom("windows misplaced", "rolled back the wrong way"): {torch.roll: _always_forth},
    Symptom("another interpolation", "nearest"): {F.interpolate: _interpolated("nearest", None)},
    Symptom("another interpolation", "bilinear"): {F.interpolate: _interpolated("bilinear", False)},
    Symptom("another interpolation", "corners aligned"): {
        F.interpolate: _interpolated("bicubic", True)
    },
}
"""Each is a different function that has the same tensors and shapes."""
