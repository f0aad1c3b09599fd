"""Optimization profiles: the input shapes that an engine accepts, and recipe files with them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from paragon_export.errors import PlanError
from paragon_export.specs.types import MAX_EXTENT_PX, Size
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MAX_RECIPE_BYTES = 2**16

MAX_PROFILE_PIXELS = 2**31 - 1
"""Pixels of the largest batch of a profile: TensorRT's limit on the elements of a tensor."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The range of image sizes that an engine accepts, and the size that it is tuned for.

    Raises:
        PlanError: If the sizes do not rise or the largest batch has too many pixels.
    """

    smallest: Size
    optimal: Size
    largest: Size
    batch: int = 1
    """Largest batch. The engine is tuned for batch 1."""

    def __post_init__(self) -> None:
        for axis in ("height", "width"):
            low, optimal, high = (
                getattr(s, axis) for s in (self.smallest, self.optimal, self.largest)
            )
            if not low <= optimal <= high:
                raise PlanError(
                    f"impossible profile: {axis} must rise from min {low} over opt {optimal} "
                    f"to max {high}"
                )
        if not 1 <= self.batch <= MAX_EXTENT_PX:
            raise PlanError(f"impossible profile: batch {self.batch}; use 1 to {MAX_EXTENT_PX}")
        if self.batch * self.largest.height * self.largest.width > MAX_PROFILE_PIXELS:
            raise PlanError(
                f"impossible profile: {self.batch} pictures of {self.largest} have more than "
                f"{MAX_PROFILE_PIXELS} pixels, TensorRT's limit; lower --max or the batch"
            )

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        """The smallest, the optimal and the largest size."""
        return self.smallest, self.optimal, self.largest


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The range of batch sizes that an engine of a glyph classifier accepts.

    Raises:
        PlanError: If the batch sizes do not rise within 1 to ``MAX_EXTENT_PX``.
    """

    smallest: int = 1
    optimal: int = 32
    largest: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.optimal <= self.largest <= MAX_EXTENT_PX:
            raise PlanError(
                f"impossible profile: batches must rise from min {self.smallest} over opt "
                f"{self.optimal} to max {self.largest}, within 1 to {MAX_EXTENT_PX}"
            )


DEFAULT_PROFILE = Profile(smallest=Size(1, 1), optimal=Size(720, 1280), largest=Size(1080, 1920))
"""All sizes up to 1080x1920, tuned for 720x1280."""


def read_recipe(path: Path) -> Profile:
    """Read the profile of a recipe file (TOML, table ``profile``; see ``engines/README.md``).

    Raises:
        PlanError: If the file cannot be read, is not TOML or does not hold one valid profile.
    """
    data = read_bytes(path, MAX_RECIPE_BYTES, "recipe", PlanError)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"recipe {path} is not TOML: {error}") from error
    table = document.get("profile")
    if not isinstance(table, dict):
        raise PlanError(f"recipe {path} has no [profile] table with min, opt and max")
    unknown = sorted(set(table) - {"min", "opt", "max", "batch"})
    missing = sorted({"min", "opt", "max"} - set(table))
    if unknown or missing:
        raise PlanError(
            f"recipe {path}: its profile lacks {missing} and has unknown {unknown}; expected min, "
            "opt and max, and batch if it is not 1"
        )
    batch = table.get("batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise PlanError(f"recipe {path}: batch {brief(batch)} is not a whole number")
    try:
        smallest, optimal, largest = (Size.parse(str(table[key])) for key in ("min", "opt", "max"))
        return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=batch)
    except PlanError as error:
        raise PlanError(f"recipe {path}: {error}") from error
