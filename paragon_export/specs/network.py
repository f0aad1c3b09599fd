"""NetworkSpec: a complete description of one network, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from paragon_export.specs.ports import Padding
from paragon_export.specs.types import Tracer

Source = Literal["tensors", "flag", "config", "metadata", "default"]

MAX_SCALE = 16
"""Upscaling factor."""

MAX_CHANNELS = 8192
"""Channels of a feature map. Wider maps would take gigabytes at any image size."""

MAX_IMAGE_CHANNELS = 256
"""Channels of the input image."""

MAX_OUTPUT_VALUES = 2**12
"""Output values for each input pixel: channels times the square of the scale."""

MAX_FULL_SIZE_VALUES = 2**14
"""Values of upscaled feature maps for each input pixel: features times the square of the scale."""

MAX_KERNEL = 64
"""Height and width of a convolution kernel."""


class Task(StrEnum):
    """What a network maps to what. It decides the probes, the criteria and the profile type."""

    IMAGE = "image"
    """(N, C, H, W) in [0, 1] to (N, C, s*H, s*W) in [0, 1]."""
    MAP = "map"
    """(N, C, H, W) in [0, 1] to (N, C, H, W) without a fixed range, as a discriminator."""
    CELLS = "cells"
    """(N, 1, 8, 8) in [0, 1] to logits (N, primitives): phase 1 of the glyph classifier."""
    GRID = "grid"
    """(N, 16, 16) primitive IDs, int64, to logits (N, classes): phase 2."""

    @property
    def is_classifier(self) -> bool:
        """Whether the output is logits, (N, classes)."""
        return self in (Task.CELLS, Task.GRID)

    @property
    def takes_images(self) -> bool:
        """Whether the input is an image of any size."""
        return not self.is_classifier


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What a network is fed: all that its probes are chosen by."""

    task: Task = Task.IMAGE
    channels: int = 3
    """Of the image; without meaning for ``Task.GRID``."""
    window: int = 1
    """Side of the attention windows in pixels; 1 for none."""
    smallest: int = 1
    """Least height and width in pixels at which the network is defined."""
    also_probed: tuple[tuple[int, int], ...] = ()
    """Heights and widths to add to the default ones."""
    excerpt_step: int = 1
    """As for ``NetworkSpec``."""


@dataclass(frozen=True)
class ResolvedOption:
    """The value of an option, and the source that determined it."""

    value: Any
    source: Source
    """``tensors``, ``flag`` (command line or API), ``config`` (option file), ``metadata`` (of the
    checkpoint) or ``default`` (of the variant)."""

    @property
    def is_assumed(self) -> bool:
        """Whether no source gave a value, so that the default is used."""
        return self.source == "default"


@dataclass(frozen=True)
class Port:
    """One input or output of the exported graph."""

    name: str
    dims: tuple[int | str, ...]
    """Extents. A string is the name of a dynamic dimension."""
    dtype: str = "float32"
    """NumPy's name of the dtype."""
    span: tuple[float, float] | None = None
    """Smallest and largest allowed value. If it is set, values, dtype and shape are checked before
    the input is passed to a runtime (see ``runtimes.validate``)."""

    @property
    def is_logits(self) -> bool:
        """Whether it holds a row of scores for each item, (N, classes), and not a map."""
        return len(self.dims) == 2

    @property
    def is_static(self) -> bool:
        """Whether all extents are fixed."""
        return all(isinstance(dim, int) for dim in self.dims)

    def at(self, extents: Mapping[str, int]) -> Port:
        """Return the port with the dimensions named in ``extents`` fixed to these extents."""
        return replace(self, dims=tuple(extents.get(str(dim), dim) for dim in self.dims))


PICTURES: Mapping[str, Any] = {"value_range": [0, 1], "colour_order": "RGB", "layout": "NCHW"}
"""The contract of networks whose input is an image."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """All that determines one network of an architecture, so that it can be built."""

    architecture: str
    """Name of an architecture of the registry, ``ParagonSR2``, ``MUNet`` or ``Glyph``, or of spandrel's."""
    generation: str
    """Generations that compute the same share a name, as in ``v9/v10``; ``spandrel`` for its networks."""
    variant: str
    """Variant within the architecture, as in ``realtime``."""
    scale: int
    """Upscaling factor; 0 if unknown (see ``needs``)."""
    in_channels: int
    out_channels: int
    parameters: int
    """Number of elements of the parameters, frozen filters included."""
    window: int
    """Side of the attention windows in pixels; 1 without window attention."""
    options: Mapping[str, ResolvedOption]
    structure: Mapping[str, Any] = field(default_factory=dict)
    """Further hyperparameters, in a form that depends on the architecture."""
    contract: Mapping[str, Any] = field(default_factory=lambda: PICTURES)
    """Value range, layout and the like of inputs and outputs. The exported file contains it."""
    dropped: tuple[str, ...] = ()
    """Trained tensors that the options leave out."""
    needs: tuple[str, ...] = ()
    """Options that the user must give before the network can be built, and how, as in ``scale
    (--scale or --config)``."""
    task: Task = Task.IMAGE
    smallest: int = 1
    """Least height and width in pixels at which the network is defined."""
    also_probed: tuple[tuple[int, int], ...] = ()
    """Heights and widths of further probes, at which the network behaves differently."""
    excerpt_step: int = 1
    """Parts of a picture that begin at a multiple of this many pixels give the same output as the
    picture, away from their edges. 0: no part does, because pixels depend on all others."""
    padding: Padding = field(default_factory=Padding)
    """What files of others may leave to their caller."""
    tracers: tuple[Tracer, ...] = (Tracer.SYMBOLIC,)
    """Ways to make its graph, in the order in which they are tried."""
    notes: tuple[str, ...] = ()
    """Messages for the user: assumed values, dropped tensors, options without effect."""

    @property
    def input_spec(self) -> InputSpec:
        """What its probes are chosen by."""
        return InputSpec(
            task=self.task,
            channels=self.in_channels,
            window=self.window,
            smallest=self.smallest,
            also_probed=self.also_probed,
            excerpt_step=self.excerpt_step,
        )
