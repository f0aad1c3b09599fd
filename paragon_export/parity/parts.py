"""Parts: what of a probe is compared, all of it or an excerpt of a large picture.

A network whose pixels depend on a bounded neighborhood computes the same on an excerpt. Means over
the whole picture are computed on the whole picture, and given to the network on the excerpt.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.inputs.excerpt import Excerpt, excerpt
from paragon_export.inputs.play import play
from paragon_export.inputs.probes import Probe, photograph_crop
from paragon_export.parity.reference import Reference, TorchReference
from paragon_export.runtimes.base import Arrays, Runner
from paragon_export.specs.network import Port
from paragon_export.specs.types import Size
from paragon_export.system.progress import step

if TYPE_CHECKING:
    from torch import Tensor

    from paragon_export.networks.cost import Cost

LARGE_PIXELS = 2**16
"""Pixels beyond which a picture is compared on an excerpt."""

MAX_EXCERPT_SHARE = 0.75
"""An excerpt is taken if it has at most this share of the pixels of the picture."""

MAX_EXCERPT_FLOPS = 1.5e11
"""Arithmetic of an excerpt with its middle. A network that needs more is compared at its corners, and
in float32: in float64 the published Photo takes 94 s of processor time for 328x592."""

MAX_CANDIDATE_FLOPS = 5e11
"""Arithmetic of the large picture that a candidate runs by default: for the published Photo 17 s
of processor time in ONNX Runtime."""

MAX_CANDIDATE_PIXELS = 1080 * 1920
"""Pixels of that picture. The judgment of the published Realtime takes 1.5 GB
with them, that of Stream 3.8 GB."""

MAX_VALUES = 2.7e8
"""Values of the largest tensor of that picture, in float32 1.1 GB."""

MAX_EXCERPT_VALUES = 1e8
"""The same for an excerpt with its middle, in float64."""

MAX_WHOLE_FLOPS = 5e10
"""The same for a network that has no excerpts, so that the reference runs the whole picture too."""

MAX_WHOLE_PIXELS = 2**14
"""Pixels then. Attention over all of them takes 2 GiB in float64."""

LARGEST_REACH_PX = 128
"""Largest reach of a network that is compared on excerpts."""

ROOM_PX = 8
"""What is added to the measured reach of a network without attention windows."""

STRIPE_PX = 16
"""Width of the stripe that is changed to measure the reach, in the middle of a strip."""

REACH_ERROR = 1e-7
"""Share of an output's range. A change below it does not count as reached."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What of a probe is compared."""

    whole: Probe
    """What candidates are fed."""
    probe: Probe
    """What the reference is fed."""
    excerpt: Excerpt | None = None
    """None: all is compared."""
    scale: int = 1
    """Pixels of the image for one of the input."""
    dtype: str = "float64"
    """Type that the reference computes in."""
    means: tuple[Tensor, ...] = ()
    """Means over the whole picture, in the order in which the network takes them."""

    def play(self, runner: Runner, inputs: Sequence[Port], probe: Probe | None = None) -> Arrays:
        """Run PyTorch on the part, or on ``probe`` of the same size. Return what is compared."""
        with self._given_means():
            outputs = play(runner, probe or self.probe, inputs)
        if self.excerpt is None:
            return outputs
        return {n: self.excerpt.blocks(a, self._scale(n), kept=True) for n, a in outputs.items()}

    def of_candidate(self, name: str, output: np.ndarray) -> np.ndarray:
        """Return what is compared of a candidate's output; NaN if any value is not finite."""
        if self.excerpt is None:
            return output
        blocks = self.excerpt.blocks(output, self._scale(name), kept=False)
        is_finite = np.isfinite(output.astype(np.float32, copy=False)).all()
        return blocks if is_finite else np.full_like(blocks, np.nan)

    def whole_shape(self, name: str, compared: np.ndarray) -> tuple[int, ...]:
        """Return the shape of the whole output, given what is compared of the reference's."""
        if self.excerpt is None:
            return compared.shape
        images = len(self.whole.frames) * self.whole.batch
        size, scale = self.whole.size, self._scale(name)
        return images, compared.shape[1], scale * size.height, scale * size.width

    def _scale(self, output: str) -> int:
        return self.scale if output == "output" else 1

    def _given_means(self) -> AbstractContextManager[Any]:
        if not self.means:
            return nullcontext()
        from paragon_export.networks.picture_means import PictureMeans

        return PictureMeans(self.means)


class Parts:
    """Chooses the parts of the probes of one reference."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference

    def of(self, probe: Probe) -> Part:
        """Return what of a probe is compared."""
        if probe.size.height * probe.size.width <= LARGE_PIXELS or self._network is None:
            return Part(whole=probe, probe=probe)
        found = self._excerpt(probe.size)
        if found is None:
            return Part(whole=probe, probe=probe)
        return Part(
            whole=probe,
            probe=found.of(probe),
            excerpt=found,
            scale=self._network.spec.scale,
            dtype="float32" if self._is_slow(probe.size) else "float64",
            means=self._means(probe) if self._measured.has_means else (),
        )

    @property
    def _network(self) -> TorchReference | None:
        """The reference, if excerpts of it can be computed."""
        if not isinstance(self.reference, TorchReference):
            return None
        return self.reference if self.reference.input_spec.excerpt_step else None

    @property
    def has_excerpts(self) -> bool:
        """Whether the network computes the same on excerpts of large pictures."""
        return self.reach is not None

    @property
    def reach(self) -> int | None:
        """How far a pixel of the input reaches, in pixels; None if there are no excerpts."""
        return self._measured.reach if self._network else None

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest picture that is judged by default."""
        if self.has_excerpts:
            most, pixels = MAX_CANDIDATE_FLOPS, MAX_CANDIDATE_PIXELS
        else:
            most, pixels = MAX_WHOLE_FLOPS, MAX_WHOLE_PIXELS
        in_memory = MAX_VALUES / self.cost.values
        return int(min(most / self.cost.flops, in_memory, pixels))

    def _excerpt(self, size: Size) -> Excerpt | None:
        reach, network = self.reach, self._network
        if reach is None or network is None:
            return None
        step_px, middle = network.input_spec.excerpt_step, not self._is_slow(size)
        found = excerpt(size, reach, step_px, middle=middle)
        is_small = found.pixels <= MAX_EXCERPT_SHARE * size.height * size.width
        return found if is_small else None

    def _is_slow(self, size: Size) -> bool:
        """Return whether an excerpt with its middle would take too long."""
        assert self.reach is not None
        found = excerpt(size, self.reach, self.reference.input_spec.excerpt_step)
        is_long = found.pixels * self.cost.flops > MAX_EXCERPT_FLOPS
        return is_long or found.pixels * self.cost.values > MAX_EXCERPT_VALUES

    @cached_property
    def cost(self) -> Cost:
        """What the network costs for one pixel of its input."""
        from paragon_export.networks.cost import cost_per_pixel

        network = self.reference
        assert isinstance(network, TorchReference)
        return cost_per_pixel(network.module, network.inputs, network.input_spec.smallest)

    @cached_property
    def _measured(self) -> _Reach:
        assert self._network is not None
        with step("measuring how far pixels reach"):
            return measured_reach(self._network)

    @step("means over the whole picture")
    def _means(self, probe: Probe) -> tuple[Tensor, ...]:
        from paragon_export.networks.picture_means import PictureMeans

        with PictureMeans() as found:
            play(self.reference.runner("float32"), probe, self.reference.inputs)
        return tuple(found.recorded)


@dataclass(frozen=True)
class _Reach:
    """How far the pixels of a network's input reach in its output."""

    reach: int | None
    """In pixels of the input; None if it is above ``LARGEST_REACH_PX``."""
    has_means: bool
    """Whether the network uses means over the whole picture."""


def measured_reach(reference: TorchReference) -> _Reach:
    """Measure in float64 how far a change of the input is seen.

    A stripe in the middle of a strip of a photograph is replaced by its negative. Means over the
    whole picture keep their values. From other places in a window the stripe may reach farther, by
    one window at most, and other contents may reach farther too. So a window is added, or
    ``ROOM_PX``.
    """
    from paragon_export.networks.picture_means import PictureMeans

    spec, runner, inputs = reference.input_spec, reference.runner("float64"), reference.inputs
    unit = max(spec.excerpt_step, 1)
    height = -(-max(STRIPE_PX, spec.smallest) // unit) * unit
    stripe, far = (-(-px // unit) * unit for px in (STRIPE_PX, LARGEST_REACH_PX))
    left, right, width = far, far + stripe, 2 * far + stripe
    image = photograph_crop(spec.channels, Size(height, width))[None]
    changed = image.copy()
    changed[..., left:right] = 1 - changed[..., left:right]
    frames = min(len(inputs), 2)  # a video network is fed the image twice
    probes = [_strip(picture, frames) for picture in (image, changed)]
    with PictureMeans() as means:
        before = play(runner, probes[0], inputs)
    with PictureMeans(means.recorded):
        after = play(runner, probes[1], inputs)
    reach = 0
    for name, output in before.items():
        scale = output.shape[-1] // width
        moved = np.abs(after[name] - output).max(axis=(0, 1, 2)).reshape(width, scale).max(axis=1)
        limit = REACH_ERROR * max(1.0, float(np.abs(output).max()))
        seen = np.flatnonzero(~(moved <= limit))  # NaN counts as seen
        if seen.size:
            reach = max(reach, left - int(seen[0]), int(seen[-1]) + 1 - right)
    is_bounded = reach < far - 1
    reach += max(spec.window, ROOM_PX)
    return _Reach(reach=reach if is_bounded else None, has_means=bool(means.recorded))


def _strip(image: np.ndarray, frames: int) -> Probe:
    """Return a probe that feeds an image one or two times."""
    size = Size(*image.shape[-2:])
    return Probe(label="strip", size=size, frames=(image,) * frames, blend=(0.0, 0.5)[:frames])
