"""Plans: what the user asks for, complete and checked before any work is done."""

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
"""Of the largest batch of a profile: TensorRT's tensors hold no more values."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The range of sizes that an engine accepts and the one it is tuned for."""

    smallest: Size
    optimal: Size
    largest: Size
    batch: int = 1

    def __post_init__(self) -> None:
        for axis in ("height", "width"):
            low, best, high = (
                getattr(s, axis) for s in (self.smallest, self.optimal, self.largest)
            )
            if not low <= best <= high:
                raise PlanError(
                    f"impossible profile: {axis} must rise from min {low} over opt {best} "
                    f"to max {high}"
                )
        if not 1 <= self.batch <= MAX_EXTENT_PX:
            raise PlanError(f"impossible profile: batch {self.batch}; use 1 to {MAX_EXTENT_PX}")
        if self.batch * self.largest.height * self.largest.width > MAX_PROFILE_PIXELS:
            raise PlanError(
                f"impossible profile: {self.batch} pictures of {self.largest} have more than "
                f"{MAX_PROFILE_PIXELS} pixels, which TensorRT cannot hold"
            )

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        return self.smallest, self.optimal, self.largest


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """The range of batches that an engine of a glyph classifier accepts; its grid is fixed."""

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
"""Everything up to 1080p, tuned for 720p."""


def read_recipe(path: Path) -> Profile:
    """Read the profile of a recipe file (TOML, table ``profile``; see ``engines/README.md``).

    Raises:
        PlanError: If the file cannot be read or does not hold one possible profile.
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
        raise PlanError(f"recipe {path}: profile lacks {missing}, has unknown {unknown}")
    batch = table.get("batch", 1)
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise PlanError(f"recipe {path}: batch {brief(batch)} is not a whole number")
    try:
        smallest, optimal, largest = (Size.parse(str(table[key])) for key in ("min", "opt", "max"))
        return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=batch)
    except PlanError as error:
        raise PlanError(f"recipe {path}: {error}") from error
