"""Alternatives: other networks with the same tensors that a candidate may have been exported from.

They differ in an option that the tensors do not determine, in the weights of another container of
the checkpoint, or in one operator that was exported as a similar one.
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
from paragon_export.networks.dispatch import DispatchMode
from paragon_export.parity.reference import TorchReference, build_reference
from paragon_export.parity.report import Finding

OTHER_VALUES: Mapping[str, tuple[Any, ...]] = {
    "window_size": (8, 16, 32),
    "attention_mode": ("sdpa", "none", "local", "global", "hierarchical"),
    "export_safe": (True, False),
    "use_norm": (True, False),
    "activation": ("gelu", "relu"),
    "normalize_embeddings": (True, False),
}
"""Values tried for each option that the tensors do not determine."""

LINEAR_OPTION = "upsampler_alpha"
"""The output is linear in this option, so one other value determines its best value."""

LINEAR_STEP = 0.5
"""Distance of that other value from the reference's."""


@dataclass(frozen=True)
class Alternative:
    """Another network that a candidate may have been exported from."""

    finding: Finding
    """What to report if the candidate equals it."""
    reference: TorchReference
    line: tuple[float, float] | None = None
    """Values of :data:`LINEAR_OPTION` in the true reference and here; None for other options."""


def alternatives(reference: TorchReference) -> Iterator[Alternative]:
    """Yield networks with other options, with other weights, and with one operator replaced."""
    network = reference.network
    for name, option in network.spec.options.items():
        start = option.value if name == LINEAR_OPTION else None
        values = OTHER_VALUES.get(name, ()) if start is None else (start + LINEAR_STEP,)
        for value in values if option.source != "tensors" else ():
            if value == option.value:
                continue
            flags = {**network.options.flags, name: value}
            try:
                other = network.with_options(replace(network.options, flags=flags))
                built = build_reference(other, video=reference.video)
            except ParagonExportError:
                continue  # the network does not support this value
            detail = name if start is not None else f"{name} {value}"
            line = None if start is None else (start, value)
            yield Alternative(Finding("another switch", detail), built, line)
    yield from _other_weights(reference)
    for finding, replacements in REPLACED_OPERATORS.items():
        module = _WithReplacedOperators(reference.module, replacements)
        yield Alternative(finding, replace(reference, module=module))


def _other_weights(reference: TorchReference) -> Iterator[Alternative]:
    """Yield the network with the checkpoint's other weights, averaged or last, if it has both."""
    network = reference.network
    checkpoint = network.checkpoint
    if not checkpoint.container:
        return
    try:
        other = describe(checkpoint.other_weights(), network.options)
        built = build_reference(other, video=reference.video)
    except ParagonExportError:
        return  # the checkpoint has one set of weights
    detail = f"{other.checkpoint.container} in place of {checkpoint.container}"
    yield Alternative(Finding("other weights", detail), built)


# --- operators exported as similar ones --------------------------------------------------------

Replacements = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions of PyTorch, and the functions that are called in their place."""


class _Redirect(TorchFunctionMode):
    """Calls the replacement wherever a network calls a replaced function of PyTorch."""

    def __init__(self, replacements: Replacements) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replacements.get(func, func)(*args, **(kwargs or {}))


class _Seen(DispatchMode):
    """Within it, networks compute padding too, which a replaced function may move into the image."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _WithReplacedOperators(nn.Module):
    """A network that runs with some functions of PyTorch replaced."""

    def __init__(self, network: nn.Module, replacements: Replacements) -> None:
        super().__init__()
        self.network, self.replacements = network, replacements

    def forward(self, *inputs: Tensor) -> Any:
        with _Redirect(self.replacements), _Seen():
            return self.network(*inputs)


def _tanh_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate="tanh" if approximate == "none" else "none")


def _depth_first(x: Tensor, factor: int) -> Tensor:
    """Depth to space in the order DCR, the default of ONNX: channels vary fastest."""
    n, c, h, w = x.shape
    grouped = x.reshape(n, factor, factor, c // factor**2, h, w)
    return grouped.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, factor * h, factor * w)


def _columns_first(x: Tensor, factor: int) -> Tensor:
    """Pixel shuffle with rows and columns of each block swapped."""
    n, c, h, w = x.shape
    grouped = x.reshape(n, c // factor**2, factor, factor, h, w)
    return grouped.permute(0, 1, 4, 3, 5, 2).reshape(n, -1, factor * h, factor * w)


def _replicated(x: Tensor, factor: int) -> Tensor:
    """Fill each block of a pixel shuffle with its mean."""
    n, c, h, w = x.shape
    small = x.reshape(n, c // factor**2, factor**2, h, w).mean(2)
    return small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _not_rolled(x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    return x


def _rolled_one_way(x: Tensor, shifts: tuple[int, ...], dims: Any = None) -> Tensor:
    return torch.roll(x, tuple(-abs(s) for s in shifts), dims)


def _interpolated(mode: str, align: bool | None) -> Callable[..., Tensor]:
    def interpolate(x: Tensor, size: Any = None, scale_factor: Any = None, **_: Any) -> Tensor:
        return F.interpolate(x, size, scale_factor, mode=mode, align_corners=align)

    return interpolate


REPLACED_OPERATORS: Mapping[Finding, Replacements] = {
    Finding("another activation", "GELU by tanh"): {F.gelu: _tanh_gelu},
    Finding("pixel order", "depth to space in the order DCR"): {F.pixel_shuffle: _depth_first},
    Finding("pixel order", "rows and columns swapped"): {F.pixel_shuffle: _columns_first},
    Finding("nearest", "in place of a pixel shuffle"): {F.pixel_shuffle: _replicated},
    Finding("windows misplaced", "not rolled"): {torch.roll: _not_rolled},
    Finding("windows misplaced", "rolled back the wrong way"): {torch.roll: _rolled_one_way},
    Finding("another interpolation", "nearest"): {F.interpolate: _interpolated("nearest", None)},
    Finding("another interpolation", "bilinear"): {F.interpolate: _interpolated("bilinear", False)},
    Finding("another interpolation", "corners aligned"): {
        F.interpolate: _interpolated("bicubic", True)
    },
}
"""What to report for each replacement. All keep tensors and shapes."""
