"""Fit: change probes so that a model that fixes its batch, height or width accepts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from paragon_export.inputs.probes import Probe
from paragon_export.specs.ports import FixedExtents
from paragon_export.specs.types import Size


def fitted(probes: Iterable[Probe], fixed: FixedExtents) -> list[Probe]:
    """Return probes of the fixed extents; probes that become equal in kind and size are fed once.

    Images are cropped, or mirrored at their edges. With a fixed batch the images of a frame are
    fed in groups of that many, one group after the other; the last group is filled up with the
    first images. A clip of a video is played to its end before the next one starts.

    Args:
        probes: Of any extents.
        fixed: What the model fixes.
    """
    found: dict[tuple[str, Size, int, int], Probe] = {}
    for index, probe in enumerate(probes):
        sized = _at_size(probe, fixed)
        place = index if sized is probe else -1
        key = probe.label, sized.size, len(probe.frames), place
        found.setdefault(key, _in_groups(sized, fixed.batch))
    return list(found.values())


def _at_size(probe: Probe, fixed: FixedExtents) -> Probe:
    """Return a probe whose images have the fixed height and width."""
    size = fixed.at(probe.size)
    if size == probe.size:
        return probe
    frames = []
    for frame in probe.frames:
        cropped = frame[..., : size.height, : size.width]
        missing = size.height - cropped.shape[-2], size.width - cropped.shape[-1]
        padding = ((0, 0), (0, 0), (0, missing[0]), (0, missing[1]))
        frames.append(np.pad(cropped, padding, mode="symmetric"))
    return replace(probe, size=size, frames=tuple(frames))


def _in_groups(probe: Probe, batch: int | None) -> Probe:
    """Return a probe whose frames hold ``batch`` images each; None keeps the frames."""
    if batch is None or batch == probe.batch:
        return probe
    groups = -(-probe.batch // batch)
    images = np.arange(groups * batch).reshape(groups, batch) % probe.batch
    frames = tuple(frame[group] for group in images for frame in probe.frames)
    return replace(probe, frames=frames, blend=probe.blend * groups)
