"""Play: run a network on the frames of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from paragon_export.errors import RunError
from paragon_export.inputs.probes import BROKEN_STATE, Probe
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.system.text import brief

ROUNDING = 2.0**-24
"""Largest rounding error of float32 for values in [0, 1]: half a step below 1."""


STATE = {"feature_map": "prev_feat"}
"""Outputs that become inputs of the next frame, output name to input name."""


def play(runner: Runner, probe: Probe, inputs: Sequence[Port]) -> Arrays:
    """Run a network on the frames of a probe in order.

    A network with temporal inputs is fed its own outputs of the frame before, so that drift shows.
    For a probe with a broken state see ``Probe.state_is_broken``.

    Args:
        runner: The network.
        probe: The frames, each (N, C, H, W).
        inputs: The inputs of the network.

    Returns:
        Output name to array; the outputs of all frames are concatenated along the batch.

    Raises:
        RunError: If the network cannot run, or an output has another shape in each frame.
    """
    ports = {port.name: port for port in inputs}
    state: Arrays = {}
    outputs: list[Arrays] = []
    for index, frame in enumerate(probe.frames):
        feeds = {"input": frame}
        for output, name in STATE.items():
            if name in ports:
                shape = frame.shape[0], int(ports[name].dims[1]), *frame.shape[2:]
                feeds[name] = _state_for(probe, index, state.get(output), shape)
        if "alpha" in ports:
            feeds["alpha"] = np.array(probe.blend[index], np.float32)
        state = runner.infer(feeds)
        outputs.append(state)
    return {name: _concatenated(name, [frame[name] for frame in outputs]) for name in outputs[0]}


def _concatenated(name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate an output of several frames along the batch.

    Raises:
        RunError: If it has no batch, or its shape differs from frame to frame.
    """
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        shapes = brief([list(array.shape) for array in arrays])
        raise RunError(
            f"output {name} has shapes {shapes} in successive frames; expected batches of one shape"
        ) from error


def nudged(probe: Probe) -> Probe:
    """Return a float64 copy of a probe, each value moved by ``ROUNDING``, up or down at random."""
    rng = np.random.default_rng(0)
    frames = tuple(f + ROUNDING * rng.choice((-1.0, 1.0), f.shape) for f in probe.frames)
    return replace(probe, frames=frames)


def _state_for(
    probe: Probe, index: int, previous: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray:
    """Return the state for a frame: that of the previous frame, or zeros if there is none."""
    if probe.state_is_broken and probe.blend[index] == 0:
        return np.resize(np.array(BROKEN_STATE, np.float32), shape)
    return np.zeros(shape, np.float32) if previous is None else previous
