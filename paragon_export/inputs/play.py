"""Verify: one judge for all artifacts.

The truth is the untouched PyTorch network in float64. Beside every candidate's error stands
the error of PyTorch itself in the candidate's precision, measured against the same truth on
the same pictures. Every pixel counts, the worst one decides, and a candidate that cannot be
compared has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paragon_export.errors import RunError
from paragon_export.inputs.probes import NO_STATE, Probe
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.system.text import brief

ROUNDING = 2.0**-24
"""Largest rounding error of float32 for values of a picture."""


STATE = {"feature_map": "prev_feat"}
"""Outputs that become inputs of the next frame."""


def play(runner: Runner, probe: Probe, inputs: Sequence[Port]) -> Arrays:
    """Feed a probe's frames in order and stack each output over them along the batch.

    A runner with temporal inputs is fed its own state: drift counts. Where a probe's state is broken
    it is fed numbers that it must not look at (see ``Probe.state_is_broken``).
    """
    wanted = {port.name: port for port in inputs}
    state: Arrays = {}
    played: list[Arrays] = []
    for index, frame in enumerate(probe.frames):
        feeds = {"input": frame}
        for output, name in STATE.items():
            if name in wanted:
                shape = frame.shape[0], int(wanted[name].dims[1]), *frame.shape[2:]
                feeds[name] = _fed_back(probe, index, state.get(output), shape)
        if "alpha" in wanted:
            feeds["alpha"] = np.array(probe.blend[index], np.float32)
        state = runner.infer(feeds)
        played.append(state)
    return {name: _stacked(name, [frame[name] for frame in played]) for name in played[0]}


def _stacked(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join an output of several frames along the batch.

    Raises:
        RunError: If it has no batch, or other shapes from frame to frame.
    """
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        shapes = brief([list(array.shape) for array in arrays])
        raise RunError(f"output {name} has shapes {shapes}, which are no batches") from error


def nudged(probe: Probe) -> Probe:
    """Return a probe whose every value is moved up or down by one rounding, in float64."""
    rng = np.random.default_rng(0)
    frames = tuple(f + ROUNDING * rng.choice((-1.0, 1.0), f.shape) for f in probe.frames)
    return replace(probe, frames=frames)


def _fed_back(
    probe: Probe, index: int, before: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the state for a frame: that of the frame ``before``, or else zeros of a shape."""
    if probe.state_is_broken and probe.blend[index] == 0:
        return np.resize(np.array(NO_STATE, np.float32), shape)
    return np.zeros(shape, np.float32) if before is None else before
