"""Optimization profiles: the input shapes that an engine accepts, and recipes that hold them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.types import MAX_EXTENT_PX, Size
from paragon_export.system.reading import read_bytes
from paragon_export.system.text import brief

MAX_RECIPE_BYTES = 2**16

_INSTALLED = Path(__file__).parents[1] / "assets" / "recipes"

RECIPES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[2] / "engines"
"""Folder of the recipes that are shipped: in the wheel, or in a checkout."""


MAX_PROFILES = 8
"""Of one engine: TensorRT compiles it once for each."""

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
    also: tuple[Profile, ...] = ()
    """Further profiles of the same engine, each with none of its own."""

    def __post_init__(self) -> None:
        if len(self.also) >= MAX_PROFILES or any(profile.also for profile in self.also):
            raise PlanError(
                f"impossible profile: one engine has 1 to {MAX_PROFILES} profiles, in one list"
            )
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
    def all(self) -> tuple[Profile, ...]:
        """This profile and the further ones."""
        return self, *self.also

    def accepts(self, size: Size) -> bool:
        """Return whether an engine of this profile runs pictures of a size."""
        return any(
            one.smallest.height <= size.height <= one.largest.height
            and one.smallest.width <= size.width <= one.largest.width
            for one in self.all
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


AnyProfile = Profile | BatchProfile


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def find_recipe(text: str) -> Path:
    """Return the file of a recipe that is given by name, as ``realtime-1080p``, or as a path.

    Raises:
        PlanError: If it is neither a path nor the name of a shipped recipe.
    """
    path = Path(text)
    if path.suffix or len(path.parts) != 1 or path.is_file():
        return path
    if text not in recipe_names():
        raise PlanError(
            f"unknown recipe {brief(text)}; use {', '.join(recipe_names())}, or the path of a "
            "TOML file"
        )
    return RECIPES / f"{text}.toml"


def read_recipe(path: Path) -> Profile:
    """Read a recipe file: TOML with one table ``[profile]``, or with several ``[[profile]]``.

    Returns:
        The first profile, with the others in ``also``.

    Raises:
        PlanError: If the file cannot be read or does not hold possible profiles.
    """
    data = read_bytes(path, MAX_RECIPE_BYTES, "recipe", PlanError)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"recipe {path} is not TOML: {error}") from error
    found = document.get("profile")
    tables: list[Any] = found if isinstance(found, list) else [found]
    if not tables or not all(isinstance(table, dict) for table in tables):
        raise PlanError(f"recipe {path} has no [profile] table with min, opt and max")
    first, *others = [_profile(path, table) for table in tables]
    try:
        return replace(first, also=tuple(others))
    except PlanError as error:
        raise PlanError(f"recipe {path}: {error}") from error


def _profile(path: Path, table: dict[str, Any]) -> Profile:
    """Read one table of a recipe."""
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
