"""Ports: what a foreign ONNX file calls its image and its result, and which extents it fixes."""

from __future__ import annotations

from dataclasses import dataclass

from paragon_export.errors import PlanError
from paragon_export.specs.types import Size


@dataclass(frozen=True, kw_only=True)
class PortNames:
    """Names of the image input and of its result in a file.

    This tool calls them ``input`` and ``output``. A file with one input and one output may have any
    names; ``runtimes.named`` translates them.
    """

    image: str = "input"
    result: str = "output"


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a network is padded before it is called, in pixels; files of others may lack the padding."""

    multiple: int = 1
    """Height and width are padded to a multiple of this."""
    least: int = 1
    """Height and width are padded to this at least."""
    step: int = 1
    """A multiple of all sides of windows and of all factors by which maps are reduced. Files of
    others may take multiples of a divisor of it alone. 1: files must take every size."""


@dataclass(frozen=True, kw_only=True)
class FixedExtents:
    """Extents of the image input that a file fixes; None where it accepts any."""

    batch: int | None = None
    height: int | None = None
    width: int | None = None
    multiple: int = 1
    """Height and width must be multiples of this: the file leaves padding to its caller."""
    least: int = 1
    """Least height and width, if ``multiple`` is above 1."""

    @property
    def size(self) -> Size | None:
        """The only image size; None unless height and width are fixed."""
        return None if self.height is None or self.width is None else Size(self.height, self.width)

    def at(self, size: Size) -> Size:
        """Return a size with the fixed extents in place of its own, or the next larger multiple."""
        return Size(
            self.height or self._multiple_from(size.height),
            self.width or self._multiple_from(size.width),
        )

    def _multiple_from(self, extent: int) -> int:
        if self.multiple == 1:
            return extent
        return -(-max(extent, self.least) // self.multiple) * self.multiple

    def check(self, size: Size) -> None:
        """Refuse a size that the file does not accept.

        Raises:
            PlanError: Naming the fixed extents.
        """
        if self.at(size) != size:
            raise PlanError(f"the model is fixed to {self}; it does not accept {size}")

    def __str__(self) -> str:
        fixed = {"batch": self.batch, "height": self.height, "width": self.width}
        parts = [f"{name} {extent}" for name, extent in fixed.items() if extent is not None]
        if self.multiple > 1:
            parts.append(f"heights and widths that are multiples of {self.multiple}")
        return ", ".join(parts)
