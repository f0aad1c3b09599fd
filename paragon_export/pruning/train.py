"""Train a network on photographs and on what another network makes of them.

The learning rate rises, then falls along a half cosine; the weights that are kept are a running
average. A budget of steps gives the same weights each time; one of minutes follows the clock.
"""

from __future__ import annotations

import ast
import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paragon_export.errors import PlanError
from paragon_export.media.images import LUMA
from paragon_export.pruning.pictures import batch
from paragon_export.system.atomic_write import write_files
from paragon_export.system.progress import tell

PATCH = 48
"""Side of a patch of the network's input in pixels."""

WARM_UP = 0.01
"""Share of the training in which the learning rate rises."""

SQUARED_FROM = 0.8
"""Share after which errors are squared, which is what PSNR measures."""

LUMA_SHARE = 2.0
"""Weight of the error of luma beside that of the colors."""

AVERAGE = 0.999
"""Share of the running average that a step keeps."""

SAVED_SECONDS = 60.0
"""How often the state is saved and progress is shown."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, for how long."""

    minutes: float = 0.0
    """Wall time of all runs together; not used if ``steps`` is given."""
    steps: int = 0
    rate: float = 4e-3
    """Highest learning rate."""
    teacher_share: float = 0.5
    """Weight of the error to the teacher's output; the rest is that to the photographs."""
    seed: int = 0
    """Of the patches."""
    batch: int = 8
    """Patches a step."""
    device: str = "cpu"
    """What trains: ``"cpu"`` or ``"cuda"``. Only ``"cpu"`` gives the same bytes each time."""
    state: Path | None = None
    """File that a run which is stopped goes on from; it is removed at the end."""
    key: str = ""
    """What is trained: a state with another key is refused."""


def settings_of(training: Training) -> dict[str, object]:
    """Return what a training was asked for: minutes or steps, rate, share of the teacher, seed, batch, device."""
    return {n: v for n, v in asdict(training).items() if n not in ("state", "key")}


def checked(training: Training, output: Path, parts: Sequence[object]) -> Training:
    """Return a training whose state file is in the folder of its output.

    Args:
        training: What is asked for.
        output: The checkpoint that will be written.
        parts: All else that decides what is trained, as the digests of the teacher and the photographs. A
            state is only gone on from if they are the same.

    Raises:
        PlanError: If it has no length, a figure is out of range, there is no such device, or the
            file of its state is that of another training.
    """
    if not (training.steps > 0 or 0 < training.minutes < math.inf):
        raise PlanError("a training needs a number of minutes or steps above 0")
    if not 0 <= training.teacher_share <= 1:
        raise PlanError(f"--teacher-share {training.teacher_share:g}: give a share from 0 to 1")
    if training.batch < 1:
        raise PlanError(f"--batch {training.batch}: give 1 or more")
    if training.device not in ("cpu", "cuda"):
        raise PlanError(f"--device {training.device}: give cpu or cuda")
    if training.device == "cuda" and not torch.cuda.is_available():
        raise PlanError(
            "--device cuda: PyTorch finds no GPU here; leave it out, or install a PyTorch with CUDA"
        )
    check_seed(training.seed)
    key = hashlib.sha256(repr([settings_of(training), *parts]).encode()).hexdigest()
    run = replace(training, state=output.with_name(f"{output.name}.training"), key=key)
    read_state(run)
    return run


def check_seed(seed: int) -> None:
    """Check a seed.

    Raises:
        PlanError: If PyTorch does not take it.
    """
    if not 0 <= seed < 2**63:
        raise PlanError(f"--seed {seed}: give a number from 0 to {2**63 - 1}")


@dataclass(frozen=True)
class Piece:
    """A part of a photograph: the input, the photograph and the teacher's output, 8 bits."""

    small: np.ndarray
    large: np.ndarray
    taught: np.ndarray


@torch.no_grad()
def taught(teacher: nn.Module, small: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Return what the teacher, which is on ``device``, makes of an image (H, W, 3) of 8 bits."""
    output = teacher(torch.from_numpy(batch([small])).to(device))[0].cpu().numpy()
    return np.rint(output.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)


def train(network: nn.Module, pieces: Sequence[Piece], scale: int, training: Training) -> nn.Module:
    """Train a network in place and return it with averaged weights, eval mode.

    Parameters of its ``base`` stay. The network comes back on the processor.

    Args:
        network: Maps (N, 3, H, W) to ``scale`` times the size.
        pieces: Larger than a patch.
        scale: Factor of the network.
        training: What to do.

    Raises:
        PlanError: If the state is that of another training.
    """
    network.to(training.device)
    parameters = {n: p for n, p in network.named_parameters() if not n.startswith("base.")}
    for parameter in parameters.values():
        parameter.requires_grad_()
    average = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=training.rate)
    run = _Run(training, parameters, average, optimizer)
    run.resume()
    patches = _patches(pieces, scale, training, run.random)
    with torch.enable_grad():
        while (progress := run.progress()) < 1:
            optimizer.param_groups[0]["lr"] = training.rate * _rate(progress)
            loss = _loss(network, next(patches), progress, training.teacher_share)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            run.after_step(loss.item())
    run.finish()
    return network.to("cpu").requires_grad_(False).eval()


def _rate(progress: float) -> float:
    return min(progress / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * progress))


def _loss(network: nn.Module, patch: Sequence[Tensor], progress: float, share: float) -> Tensor:
    small, large, taught = patch
    measure: Callable[[Tensor], Tensor] = torch.square if progress > SQUARED_FROM else torch.abs
    output, weights = network(small), small.new_tensor(LUMA)[:, None, None]
    loss = small.new_zeros(())
    for target, weight in ((large, 1 - share), (taught, share)):
        difference = output - target
        luma = (weights * difference).sum(dim=1)
        loss = loss + weight * (measure(difference).mean() + LUMA_SHARE * measure(luma).mean())
    return loss


def _patches(
    pieces: Sequence[Piece], scale: int, training: Training, random: np.random.Generator
) -> Iterator[list[Tensor]]:
    """Yield random patches for ever, turned and mirrored at random: input, photograph, teacher."""
    areas = np.array([piece.small.shape[0] * piece.small.shape[1] for piece in pieces], float)
    while True:
        parts: list[list[np.ndarray]] = [[], [], []]
        for index in random.choice(len(pieces), size=training.batch, p=areas / areas.sum()):
            piece = pieces[index]
            y, x = (int(random.integers(n - PATCH + 1)) for n in piece.small.shape[:2])
            turns, mirror = int(random.integers(4)), bool(random.integers(2))
            images = (piece.small, 1), (piece.large, scale), (piece.taught, scale)
            for part, (image, s) in zip(parts, images, strict=True):
                cut = np.rot90(image[s * y : s * (y + PATCH), s * x : s * (x + PATCH)], turns)
                part.append(cut[:, ::-1] if mirror else cut)
        yield [
            torch.from_numpy(np.ascontiguousarray(batch(part))).to(training.device)
            for part in parts
        ]


class _Run:
    """What changes in a training: steps, seconds, average, optimizer, random numbers."""

    def __init__(
        self,
        training: Training,
        parameters: dict[str, nn.Parameter],
        average: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.training, self.parameters, self.average = training, parameters, average
        self.optimizer, self.steps, self.before = optimizer, 0, 0.0
        self.random = np.random.default_rng(training.seed)
        self.started = self.saved = time.monotonic()
        self.losses: list[float] = []

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def progress(self) -> float:
        """Return the share of the training that is done; 1 at the end."""
        if self.training.steps:
            return self.steps / self.training.steps
        return min(self.seconds / (60 * self.training.minutes), 1.0)

    @torch.no_grad()
    def after_step(self, loss: float) -> None:
        """Update the average; each minute save the state and tell the progress."""
        self.steps += 1
        # A young average forgets faster, or the start would linger in it.
        decay = min(AVERAGE, self.steps / (self.steps + 10))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter, 1 - decay)
        self.losses.append(loss)
        if time.monotonic() - self.saved < SAVED_SECONDS:
            return
        self.saved = time.monotonic()
        tell(
            f"step {self.steps}, minute {self.seconds / 60:.0f}, {self.progress():.0%} done, "
            f"error {np.mean(self.losses):.5f}"
        )
        self.losses.clear()
        self.save()

    def save(self) -> None:
        """Write the state, if it has a file."""
        if self.training.state is None:
            return
        document = {
            "key": self.training.key, "steps": self.steps, "seconds": self.seconds,
            "parameters": {n: p.detach() for n, p in self.parameters.items()},
            "average": self.average, "optimizer": self.optimizer.state_dict(),
            "random": repr(self.random.bit_generator.state),
        }  # fmt: skip
        buffer = io.BytesIO()
        torch.save(document, buffer)
        write_files({self.training.state: buffer.getvalue()})

    @torch.no_grad()
    def resume(self) -> None:
        """Go on from the state, if there is one; see :func:`read_state`."""
        document = read_state(self.training)
        if document is None:
            return
        self.steps, self.before = document["steps"], document["seconds"]
        for name, parameter in self.parameters.items():
            parameter.copy_(document["parameters"][name])
            self.average[name].copy_(document["average"][name])
        self.optimizer.load_state_dict(document["optimizer"])
        self.random.bit_generator.state = ast.literal_eval(document["random"])
        tell(
            f"going on from {self.training.state}: step {self.steps}, minute {self.before / 60:.0f}"
        )

    @torch.no_grad()
    def finish(self) -> None:
        """Give the network the average."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])


def read_state(training: Training) -> dict[str, Any] | None:
    """Return the state that a training goes on from; None if there is none.

    Raises:
        PlanError: If it cannot be read, or is that of another training.
    """
    path = training.state
    if path is None or not path.exists():
        return None
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the library raise
        raise PlanError(f"{path} is no state of a training; remove it") from error
    if not isinstance(document, dict) or document.get("key") != training.key:
        raise PlanError(
            f"{path} is the state of another training; remove it, or name another output"
        )
    return document
