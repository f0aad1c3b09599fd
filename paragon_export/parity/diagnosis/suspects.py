"""Hypotheses about a wrong output that are tested by running the reference network again.

Each runs the network on a changed probe, or runs an alternative network on the same probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from paragon_export.errors import ParagonExportError
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe
from paragon_export.parity.diagnosis.alternatives import Alternative
from paragon_export.parity.diagnosis.symptoms import Suspect
from paragon_export.parity.reference import TorchReference
from paragon_export.parity.report import Finding
from paragon_export.runtimes.base import Runner

RGB_CHANNELS = 3

RANGES = {"0 to 255": (1 / 255, 0.0), "divided by 255 again": (255.0, 0.0), "-1 to 1": (2.0, -1.0)}
"""Value ranges that a candidate may expect: factor and offset that turn the probe into what the
network then sees."""

PADDINGS: tuple[Literal["reflect", "edge", "constant"], ...] = ("reflect", "edge", "constant")
"""Modes of ``numpy.pad``."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """The reference and the probe on which one output was wrong."""

    reference: TorchReference
    probe: Probe
    output: str
    """Name of the graph output."""
    truth: np.ndarray
    """That output of the reference, float64."""
    error: np.ndarray
    """Output of the candidate minus ``truth``."""

    def __call__(self, probe: Probe, runner: Runner) -> np.ndarray:
        """Run a network on a probe and return the output."""
        return play(runner, probe, self.reference.inputs)[self.output]


def suspects(rerun: Rerun, alternatives: Callable[[], Iterable[Alternative]]) -> Iterator[Suspect]:
    """Yield hypotheses, simplest first. ``alternatives`` is called after all the others."""
    run = partial(rerun, runner=rerun.reference.runner("float64"))
    probe, truth = rerun.probe, rerun.truth
    for finding, changed in _changed_inputs(probe):
        yield finding, partial(run, changed)
    if truth.ndim == 4:
        yield from _bgr_network(probe, truth, run)
        yield from _padded(probe, rerun.reference.spec.window, truth, run)
    for alternative in alternatives():
        yield from _alternative(alternative, rerun)


def _changed_inputs(probe: Probe) -> Iterator[tuple[Finding, Probe]]:
    """Yield probes on which the network computes what a wrong candidate does on ``probe``."""
    first = probe.frames[0]
    if first.dtype.kind == "f":
        for name, (factor, offset) in RANGES.items():
            changed = _with_frames(probe, [frame * factor + offset for frame in probe.frames])
            yield Finding("value range", f"as if images were {name}"), changed
    if first.dtype.kind == "f" and first.ndim == 4 and first.shape[1] == RGB_CHANNELS:
        swapped = _with_frames(probe, [frame[:, ::-1] for frame in probe.frames])
        yield Finding("colours swapped", "blue is taken for red"), swapped
    yield from _other_blends(probe)


def _other_blends(probe: Probe) -> Iterator[tuple[Finding, Probe]]:
    """Yield probes whose ``alpha`` is one value at every frame, or at most one value."""
    blends = sorted(set(probe.blend))
    if len(blends) < 2:
        return
    for blend in blends[1:]:
        always = replace(probe, blend=(blend,) * len(probe.blend))
        yield Finding("state not reset", f"alpha is {blend:g} at every frame"), always
    never = replace(probe, blend=(0.0,) * len(probe.blend))
    yield Finding("state lost", "no frame enters the next"), never
    for blend in blends[1:] if len(blends) > 2 else ():
        same = replace(probe, blend=tuple(blend if value else 0.0 for value in probe.blend))
        yield Finding("alpha not followed", f"{blend:g} in place of all but 0"), same


def _with_frames(probe: Probe, frames: Sequence[np.ndarray]) -> Probe:
    return replace(probe, frames=tuple(np.ascontiguousarray(f, np.float32) for f in frames))


def _bgr_network(
    probe: Probe, truth: np.ndarray, run: Callable[[Probe], np.ndarray]
) -> Iterator[Suspect]:
    """Swap colors before and after the network, as in a file for a network trained on BGR."""
    if probe.frames[0].shape[1] == truth.shape[1] == RGB_CHANNELS:
        swapped = _with_frames(probe, [frame[:, ::-1] for frame in probe.frames])
        finding = Finding("colours swapped", "before the network and after it")
        yield finding, lambda: run(swapped)[:, ::-1]


def _padded(
    probe: Probe, window: int, truth: np.ndarray, run: Callable[[Probe], np.ndarray]
) -> Iterator[Suspect]:
    """Pad the input to whole windows and crop the output."""
    extents = probe.size.height, probe.size.width
    missing = [-extent % window for extent in extents]
    for mode in PADDINGS if any(missing) else ():
        if mode == "reflect" and any(m >= e for m, e in zip(missing, extents, strict=True)):
            continue
        width = ((0, 0), (0, 0), (0, missing[0]), (0, missing[1]))
        changed = _with_frames(probe, [np.pad(frame, width, mode=mode) for frame in probe.frames])
        yield (
            Finding("padded input", f"to whole windows of {window}, {mode}"),
            partial(_cropped, run, changed, truth.shape),
        )


def _cropped(
    run: Callable[[Probe], np.ndarray], probe: Probe, shape: tuple[int, ...]
) -> np.ndarray:
    return run(probe)[..., : shape[2], : shape[3]]


def _alternative(alternative: Alternative, rerun: Rerun) -> Iterator[Suspect]:
    """Yield the output of an alternative network, if it runs.

    Where the output is linear in an option, its value is fitted to the error by least squares.
    """
    try:
        other = rerun(rerun.probe, alternative.reference.runner("float64"))
    except ParagonExportError:
        return
    if alternative.line is None:
        yield alternative.finding, lambda: other
        return
    start, value = alternative.line
    direction = other - rerun.truth
    length = float(np.square(direction).sum())
    steps = float((direction * rerun.error).sum()) / length if length else 0.0
    fitted = start + steps * (value - start)
    shown = round(fitted, 4) + 0.0  # without the sign of -0
    finding = replace(alternative.finding, detail=f"{alternative.finding.detail} {shown:.3g}")
    yield finding, lambda: rerun.truth + steps * direction
