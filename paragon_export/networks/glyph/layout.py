"""Hyperparameters of glyph classifiers, and the tensors that such a network has.

There are two networks. Phase 1 classifies a cell of 8x8 pixels as a primitive. Phase 2 classifies a
grid of 16x16 primitive IDs as a glyph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paragon_export.errors import CheckpointError
from paragon_export.networks.state_dict import Shapes

GRID = 16
"""Cells per side of a glyph."""

CELL = 8
"""Pixels per side of a cell."""

VARIANTS: Mapping[tuple[Any, ...], str] = {
    (96, (96, 192, 256), (3, 3, 3), 256): "full",
    (64, (64, 128, 192), (2, 2, 2), 256): "light",
    (48, (48, 96, 128), (2, 2, 2), 128): "tiny",
}
"""Names of the published networks by embedding width, stage widths, blocks and hidden width."""

SEQUENCE_PREFIXES = ("visual_features.", "context_encoder.", "sequence_processor.",
                     "visual_only_classifier.")  # fmt: skip
"""Prefixes of tensors that only the architecture cnn_sequence has."""

DOWNSAMPLE_OF_KERNEL = {3: "conv", 1: "none"}
"""The config's ``downsample`` by the kernel size of the transitions between stages."""

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a batch norm that have one value for each channel."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that is needed to build one phase-2 network.

    ``activation`` and the fields after it are options that the tensors do not determine.
    """

    vocabulary: int
    """Number of primitive IDs, including 0."""
    embedding: int
    """Channels of the embedding."""
    stages: tuple[int, ...]
    """Channels of each stage."""
    blocks: tuple[int, ...]
    """Residual blocks of each stage; may be 0."""
    kernel: int | None
    """Kernel size of the blocks; None without blocks."""
    stem_kernel: int
    downsample: str | None
    """``conv`` (3x3, stride 2) or ``none`` (1x1); None without transitions."""
    hidden: int
    """Width of the hidden layer of the head; 0 without it."""
    classes: int
    activation: str = "gelu"
    """``gelu`` (exact, not the tanh approximation) or ``relu``."""
    normalize_embeddings: bool = False
    """Whether each embedding is divided by its L2 norm."""
    stem_stride: int = 1
    bn_eps: float = 1e-5
    """Epsilon of the batch norms."""

    @property
    def variant(self) -> str:
        """Name of the published network with these sizes, or ``custom``."""
        key = (self.embedding, self.stages, self.blocks, self.hidden)
        return VARIANTS.get(key, "custom")

    @property
    def trunk(self) -> Iterator[tuple[str, int, int, int]]:
        """Kind (``transition`` or ``block``), input channels, output channels and kernel size."""
        width = self.stages[0]
        for stage, (out, count) in enumerate(zip(self.stages, self.blocks, strict=True)):
            if stage:
                yield "transition", width, out, 3 if self.downsample == "conv" else 1
            width = out
            for _ in range(count):
                yield "block", width, width, self.kernel or 1


@dataclass(frozen=True, kw_only=True)
class CellHyperparameters:
    """All that is needed to build one phase-1 network."""

    widths: tuple[int, int]
    """Channels of the two convolutions."""
    hidden: int
    """Width of the hidden layer of the head."""
    classes: int


def unsupported_phase_2(shapes: Shapes) -> str:
    """Return the architecture of a phase-2 network that is not supported; empty for any other."""
    if len(shapes.get("embedding.weight", ())) != 2:
        return ""
    if any(name.startswith(SEQUENCE_PREFIXES) for name in shapes):
        return "sequence-aware (cnn_sequence)"
    return "transformer" if any(name.startswith("encoder.") for name in shapes) else ""


def is_phase_2(shapes: Shapes) -> bool:
    """Return whether the tensors are of phase 2: embedding, stem and layer norm of the head."""
    ranks = {"embedding.weight": 2, "stem.conv.weight": 4, "classifier.0.weight": 1}
    return all(len(shapes.get(name, ())) == rank for name, rank in ranks.items())


def is_phase_1(shapes: Shapes) -> bool:
    """Return whether the tensors are of phase 1: a convolution of one channel, and the head."""
    return (
        "embedding.weight" not in shapes
        and shapes.get("features.0.weight", ())[1:] == (1, 3, 3)
        and "classifier.1.weight" in shapes
    )


def infer(shapes: Shapes) -> Hyperparameters:
    """Determine the hyperparameters of phase 2 from the shapes of the tensors.

    Raises:
        CheckpointError: If trunk or head are not those of this architecture.
    """
    vocabulary, embedding = shapes["embedding.weight"]
    stages, blocks, kernel, downsample = _infer_trunk(shapes)
    hidden, head = 0, shapes.get("classifier.2.weight", ())
    if "classifier.4.weight" in shapes:
        head = shapes["classifier.4.weight"]
        hidden = head[-1] if head else 0
    if len(head) != 2:
        raise CheckpointError("the head has neither classifier.4.weight nor classifier.2.weight")
    return Hyperparameters(
        vocabulary=vocabulary,
        embedding=embedding,
        stages=stages,
        blocks=blocks,
        kernel=kernel,
        stem_kernel=shapes["stem.conv.weight"][-1],
        downsample=downsample,
        hidden=hidden,
        classes=head[0],
    )


def _infer_trunk(
    shapes: Shapes,
) -> tuple[tuple[int, ...], tuple[int, ...], int | None, str | None]:
    """Return channels and blocks of the stages, kernel size of the blocks, and ``downsample``."""
    stages, blocks = [shapes["stem.conv.weight"][0]], [0]
    kernels: set[int] = set()
    transitions: set[int] = set()
    for index in range(len(shapes)):
        block = shapes.get(f"features.{index}.conv1.conv.weight", ())
        transition = shapes.get(f"features.{index}.conv.weight", ())
        if len(block) == 4:
            blocks[-1] += 1
            kernels.add(block[-1])
        elif len(transition) == 4:
            stages.append(transition[0])
            blocks.append(0)
            transitions.add(transition[-1])
        else:
            break
    if len(kernels) > 1 or any(kernel % 2 == 0 for kernel in kernels):
        raise CheckpointError(f"blocks have kernels {sorted(kernels)}; expected one odd kernel")
    if len(transitions) > 1 or not transitions <= set(DOWNSAMPLE_OF_KERNEL):
        raise CheckpointError(
            f"transitions have kernels {sorted(transitions)}; expected 3 (conv) or 1 (none) in all"
        )
    downsample = DOWNSAMPLE_OF_KERNEL[transitions.pop()] if transitions else None
    return tuple(stages), tuple(blocks), next(iter(kernels), None), downsample


def infer_cells(shapes: Shapes) -> CellHyperparameters:
    """Determine the hyperparameters of phase 1 from the shapes of the tensors.

    Raises:
        CheckpointError: If the network is not two convolutions and two linear layers.
    """
    second, inner, outer = (
        shapes.get(f"{name}.weight", ()) for name in ("features.4", "classifier.1", "classifier.4")
    )
    if len(second) != 4 or len(inner) != 2 or len(outer) != 2:
        raise CheckpointError(
            "the tensors are not those of phase 1: expected two convolutions with batch norm "
            "(features.0 and features.4) and two linear layers (classifier.1 and classifier.4)"
        )
    widths = (shapes["features.0.weight"][0], second[0])
    return CellHyperparameters(widths=widths, hidden=inner[0], classes=outer[0])


def expected_shapes(h: Hyperparameters) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a phase-2 network by name."""
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (h.vocabulary, h.embedding)}
    shapes |= _unit("stem", h.embedding, h.stages[0], h.stem_kernel)
    for index, (kind, into, out, kernel) in enumerate(h.trunk):
        path = f"features.{index}"
        if kind == "block":
            shapes |= _unit(f"{path}.conv1", out, out, kernel)
            shapes |= _unit(f"{path}.conv2", out, out, kernel)
        else:
            shapes |= _unit(path, into, out, kernel)
    width = h.stages[-1]
    shapes |= {"classifier.0.weight": (width,), "classifier.0.bias": (width,)}
    if not h.hidden:
        return shapes | _linear("classifier.2", width, h.classes)
    shapes |= _linear("classifier.1", width, h.hidden)
    return shapes | _linear("classifier.4", h.hidden, h.classes)


def expected_cell_shapes(h: CellHyperparameters) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors of a phase-1 network by name."""
    first, second = h.widths
    quarter = CELL // 4
    return {
        "features.0.weight": (first, 1, 3, 3),
        **_batch_norm("features.1", first),
        "features.4.weight": (second, first, 3, 3),
        **_batch_norm("features.5", second),
        **_linear("classifier.1", second * quarter * quarter, h.hidden),
        **_linear("classifier.4", h.hidden, h.classes),
    }


def is_trained(name: str) -> bool:
    """Return whether a tensor is trained, and not a running statistic of a batch norm."""
    return not name.rpartition(".")[2].startswith(("running_", "num_batches"))


def _unit(path: str, into: int, out: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a convolution and its batch norm."""
    weight = {f"{path}.conv.weight": (out, into, kernel, kernel)}
    return {**weight, **_batch_norm(f"{path}.bn", out)}


def _batch_norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    counter: dict[str, tuple[int, ...]] = {f"{path}.num_batches_tracked": ()}
    return {f"{path}.{leaf}": (width,) for leaf in BATCH_NORM} | counter


def _linear(path: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (out, into), f"{path}.bias": (out,)}
