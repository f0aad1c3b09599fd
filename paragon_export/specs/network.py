"""NetworkSpec: one concrete network, every hyperparameter known, and where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

Source = Literal["tensors", "flag", "config", "metadata", "default"]

MAX_SCALE = 16

MAX_CHANNELS = 8192
"""Of a map inside a network: maps of more would take gigabytes at any size."""

MAX_IMAGE_CHANNELS = 256
"""Of the picture that a network is fed."""

MAX_OUTPUT_VALUES = 2**12
"""That a network gives for each pixel of its input: 16 channels at a scale of 16."""

MAX_FULL_SIZE_VALUES = 2**14
"""That features brought to full size take for each pixel of the input."""

MAX_KERNEL = 64
"""Taps along a side."""


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


@dataclass(frozen=True)
class ResolvedOption:
    """The value of a switch and who said so."""

    value: Any
    source: Source

    @property
    def is_assumed(self) -> bool:
        """Whether nobody said so: the value is the variant's default."""
        return self.source == "default"


@dataclass(frozen=True)
class Port:
    """One input or output of the exported graph."""

    name: str
    dims: tuple[int | str, ...]
    """Extents; a string names one that is known only at run time."""
    dtype: str = "float32"
    """A name of NumPy's."""
    span: tuple[float, float] | None = None
    """Smallest and largest value that may be fed. Where it is given, values, dtype and shape are
    checked before any runtime sees them (see ``feeds``)."""

    @property
    def is_logits(self) -> bool:
        """Whether it holds a row of scores for each item, (N, classes), and not a map."""
        return len(self.dims) == 2

    @property
    def is_static(self) -> bool:
        return all(isinstance(dim, int) for dim in self.dims)

    def at(self, extents: Mapping[str, int]) -> Port:
        """Return the port with the named dimensions fixed to ``extents``."""
        return replace(self, dims=tuple(extents.get(str(dim), dim) for dim in self.dims))


PICTURES: Mapping[str, Any] = {"value_range": [0, 1], "colour_order": "RGB", "layout": "NCHW"}
"""How pictures are fed to a network."""


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """One network of one family, ready to be built."""

    architecture: str
    """ParagonSR2, MUNet or the glyph classifier."""
    generation: str
    """Generations that compute the same are named together, as in ``v9/v10``."""
    variant: str
    """Of the architecture, as in ``realtime``."""
    scale: int
    """Large pixels per small one; 0 where nobody has told it yet (see ``needs``)."""
    in_channels: int
    out_channels: int
    parameters: int
    """Elements of the tensors that are built, frozen filters included."""
    window: int
    """Side of the attention windows in pixels; 1 where there are none."""
    options: Mapping[str, ResolvedOption]
    structure: Mapping[str, Any] = field(default_factory=dict)
    """What the family needs besides to build it."""
    contract: Mapping[str, Any] = field(default_factory=lambda: PICTURES)
    """What whoever runs the exported file must know of its ports; it is written into the file."""
    dropped: tuple[str, ...] = ()
    """Trained tensors that the switches leave out."""
    needs: tuple[str, ...] = ()
    """What must be told before the network can be built, and how, as in ``scale (--scale or
    --config)``."""
    task: Task = Task.IMAGE
    smallest: int = 1
    """Least height and width in pixels at which the network is defined."""
    also_probed: tuple[tuple[int, int], ...] = ()
    """Heights and widths beside the default ones without which a verdict would miss something."""
    notes: tuple[str, ...] = ()
    """What the user should be told: values assumed, tensors dropped, switches without effect."""

    @property
    def input_spec(self) -> InputSpec:
        """What its probes are chosen by."""
        return InputSpec(
            task=self.task,
            channels=self.in_channels,
            window=self.window,
            smallest=self.smallest,
            also_probed=self.also_probed,
        )
