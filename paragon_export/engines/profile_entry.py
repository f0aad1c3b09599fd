"""The ``profile`` entry of a manifest: several ranges of image sizes, or one range of batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from paragon_export.errors import PlanError
from paragon_export.specs.profiles import AnyProfile, BatchProfile, Profile
from paragon_export.specs.types import Size
from paragon_export.system.text import brief


def profile_entry(profile: AnyProfile) -> dict[str, Any]:
    """Return the entry of a manifest for a profile.

    Batches are whole numbers. Sizes are text with a batch; ``also`` lists further profiles.
    """
    if isinstance(profile, BatchProfile):
        return {"min": profile.smallest, "opt": profile.optimal, "max": profile.largest}
    smallest, optimal, largest = map(str, profile.sizes)
    entry = {"min": smallest, "opt": optimal, "max": largest, "batch": profile.batch}
    also = [profile_entry(other) for other in profile.also]
    return {**entry, "also": also} if also else entry


def profile_of(entry: Mapping[str, Any]) -> AnyProfile | None:
    """Return the profile of an entry, the inverse of :func:`profile_entry`; None if it is empty.

    Raises:
        ValueError: If the profile is invalid.
    """
    if not entry:
        return None
    try:
        if "also" not in entry:
            return _one(entry)
        return _several(entry)
    except PlanError as error:
        raise ValueError(f"profile: {error}") from error


def _one(entry: Mapping[str, Any]) -> AnyProfile:
    names = ["min", "opt", "max", *(["batch"] if "batch" in entry else [])]
    if set(entry) != set(names):
        raise ValueError(f"profile has {brief(sorted(entry))}; it must have {', '.join(names)}")
    for name in names[3:] or names:
        if type(entry[name]) is not int:
            raise ValueError(
                f"{name} of the profile is {brief(entry[name])}; it must be a whole number"
            )
    if "batch" not in entry:
        return BatchProfile(smallest=entry["min"], optimal=entry["opt"], largest=entry["max"])
    smallest, optimal, largest = (Size.parse(str(entry[key])) for key in names[:3])
    return Profile(smallest=smallest, optimal=optimal, largest=largest, batch=entry["batch"])


def _several(entry: Mapping[str, Any]) -> Profile:
    """Return the first of several profiles, with the others in ``also``."""
    others = entry["also"]
    if not isinstance(others, list) or not all(isinstance(other, dict) for other in others):
        raise ValueError(f"also of the profile is {brief(others)}; it must be a list of tables")
    alone = {name: value for name, value in entry.items() if name != "also"}
    first, *rest = (_one(each) for each in (alone, *others))
    sizes = tuple(each for each in rest if isinstance(each, Profile))
    if not isinstance(first, Profile) or len(sizes) != len(rest):
        raise ValueError("profile: several profiles must be of sizes")
    return replace(first, also=sizes)
