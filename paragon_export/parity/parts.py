"""Parts: what of a probe is compared with float64, all of it or an excerpt of a large picture.

A network whose pixels depend on a bounded neighborhood computes the same on an excerpt. Means over
the whole picture are computed on the whole picture, and given to the network on the excerpt.
All pixels of a large picture are compared with PyTorch's float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from paragon_export.inputs.excerpt import Excerpt, excerpt, strips
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
"""Pixels beyond which a picture is compared on an excerpt. Of a slow network it is one with less
(see ``MAX_EXCERPT_FLOPS``)."""

MAX_EXCERPT_SHARE = 0.75
"""An excerpt is taken if it has at most this share of the pixels of the picture."""

MAX_EXCERPT_FLOPS = 1.5e11
"""Arithmetic of an excerpt. A network that needs more is compared with PyTorch's float32 alone: in
float64 the published Photo takes 94 s of processor time for 328x592."""

MAX_CANDIDATE_FLOPS = 5e11
"""Arithmetic of the large picture that a candidate runs by default: for the published Photo 17 s
of processor time in ONNX Runtime."""

MAX_CANDIDATE_PIXELS = 1080 * 1920
"""Pixels of that picture. The judgment of the published Realtime takes 1.5 GB
with them, that of Stream 3.8 GB."""

MAX_VALUES = 2.7e8
"""Values of the largest tensor of that picture, in float32 1.1 GB."""

MAX_EXCERPT_VALUES = 1e8
"""The same for an excerpt in float64."""

MAX_STRIP_VALUES = 3e7
"""The same for a strip of a large picture in float32: 120 MB. A strip has at least four times the
rows that it needs around it, though."""

MAX_WHOLE_FLOPS = 5e10
"""The same for a network that has no excerpts, so that the reference runs the whole picture too."""

MAX_WHOLE_PIXELS = 2**14
"""Pixels then. Attention over all of them takes 2 GiB in float64."""

MIDDLE_SHARE = 8
"""The pixels of a large picture over those of a picture between the small ones and it."""

MAX_MIDDLE_FLOPS = 1.2e10
"""Arithmetic of such a picture, which float64 computes whole: for the published Photo 4,761 pixels."""

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
    float32: Arrays = field(default_factory=dict)
    """What PyTorch computes in float32 on the whole of a large picture; else empty."""
    means: tuple[Tensor, ...] = ()
    """Means over the whole picture, in the order in which the network takes them."""

    @property
    def is_large(self) -> bool:
        """Whether the picture is too large for float64 on all of it."""
        return bool(self.float32)

    @property
    def is_slow(self) -> bool:
        """Whether an excerpt takes too long in float64 too, so that float32 is the truth."""
        return self.is_large and self.excerpt is None

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

    def gap(self, name: str, output: np.ndarray) -> tuple[float, tuple[int, int]] | None:
        """Return the largest difference of a candidate's output from PyTorch's float32.

        Returns:
            The difference, and its row and column in pixels of the input. None if all of the
            output is compared anyway.
        """
        if self.excerpt is None:
            return None
        planes = (each.reshape(-1, *each.shape[2:]) for each in (output, self.float32[name]))
        found = []
        for plane, expected in zip(*planes, strict=True):
            gaps = np.abs(plane.astype(np.float32) - expected)
            place = divmod(int(gaps.argmax()), gaps.shape[1])
            found.append((float(gaps[place]), place))
        gap, (row, column) = found[int(np.argmax([gap for gap, _ in found]))]  # NaN is the largest
        return gap, (row // self._scale(name), column // self._scale(name))

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
        pixels = probe.size.height * probe.size.width
        if self._network is None or not (pixels > LARGE_PIXELS or self._is_long(pixels)):
            return Part(whole=probe, probe=probe)
        reach = self.reach
        if reach is None:
            return Part(whole=probe, probe=probe)
        found = excerpt(probe.size, reach, self._network.input_spec.excerpt_step)
        is_long = self._is_long(found.pixels)
        if not is_long and found.pixels > MAX_EXCERPT_SHARE * pixels:
            return Part(whole=probe, probe=probe)
        float32, means = self._whole(probe, reach)
        if is_long:
            return Part(whole=probe, probe=probe, float32=float32)
        return Part(
            whole=probe,
            probe=found.of(probe),
            excerpt=found,
            scale=self._network.spec.scale,
            float32=float32,
            means=means,
        )

    def around(self, part: Part, place: tuple[int, int]) -> Part:
        """Return a part with another excerpt of the same picture.

        In place of the center it covers a row and a column, in pixels of the input.
        """
        network, reach = self._network, self.reach
        assert network is not None
        assert reach is not None
        found = excerpt(part.whole.size, reach, network.input_spec.excerpt_step, *place)
        return replace(part, probe=found.of(part.whole), excerpt=found)

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

    def middle_pixels(self, large: Size) -> int:
        """Return the pixels of the largest picture between the small ones and a large one."""
        share = large.height * large.width // MIDDLE_SHARE
        return int(min(share, MAX_MIDDLE_FLOPS / self.cost.flops))

    def _is_long(self, pixels: int) -> bool:
        """Return whether float64 on so many pixels would take too long, or too much memory."""
        cost = self.cost
        return pixels * cost.flops > MAX_EXCERPT_FLOPS or pixels * cost.values > MAX_EXCERPT_VALUES

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

    @step("PyTorch in float32 on the whole picture")
    def _whole(self, probe: Probe, reach: int) -> tuple[Arrays, tuple[Tensor, ...]]:
        """Return what PyTorch computes in float32 on a large picture, and its means over it."""
        network = self._network
        assert network is not None
        runner = network.fast_runner()
        if self._measured.has_means:
            from paragon_export.networks.picture_means import PictureMeans

            with PictureMeans() as found:
                return play(runner, probe, network.inputs), tuple(found.recorded)
        rows = max(4 * reach, int(MAX_STRIP_VALUES / self.cost.values / probe.size.width))
        whole: dict[str, np.ndarray] = {}
        for strip in strips(probe.size.height, rows, reach, network.input_spec.excerpt_step):
            for name, output in play(runner, strip.of(probe), network.inputs).items():
                scale = network.spec.scale if name == "output" else 1
                shape = *output.shape[:2], scale * probe.size.height, output.shape[3]
                strip.put(output, scale, whole.setdefault(name, np.empty(shape, output.dtype)))
        return whole, ()


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
