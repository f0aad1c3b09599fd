"""What the tensors of a glyph classifier tell, and which tensors a network must have.

There are two networks: the first names the primitive in a cell of 8x8 pixels, the second reads
a grid of 16x16 such names and names the glyph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paragon_export.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

GRID = 16
"""Cells per side of a glyph."""

CELL = 8
"""Pixels per side of a cell."""

VARIANTS: Mapping[tuple[Any, ...], str] = {
    (96, (96, 192, 256), (3, 3, 3), 256): "full",
    (64, (64, 128, 192), (2, 2, 2), 256): "light",
    (48, (48, 96, 128), (2, 2, 2), 128): "tiny",
}
"""Embedding width, stage widths, blocks and hidden width of the published networks."""

CONTEXT_SIBLING = ("visual_features.", "context_encoder.", "sequence_processor.",
                   "visual_only_classifier.")  # fmt: skip

DOWNSAMPLE_OF_KERNEL = {3: "conv", 1: "none"}
"""Kernel of a transition between stages and what the training config calls it."""

BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Everything that decides a phase-2 network."""

    vocabulary: int
    """Primitive IDs, 0 included."""
    embedding: int
    stages: tuple[int, ...]
    """Width of each stage."""
    blocks: tuple[int, ...]
    """Residual blocks of each stage; a stage may have none."""
    kernel: int | None
    """Of the blocks; None where there is no block."""
    stem_kernel: int
    downsample: str | None
    """``conv`` (stride 2) or ``none``; None where there is no transition."""
    hidden: int
    """Width of the classifier's hidden layer; 0 where there is none."""
    classes: int
    activation: str = "gelu"
    """``gelu``, the exact one, or ``relu``. This and the rest cannot be told from tensors."""
    normalize_embeddings: bool = False
    stem_stride: int = 1
    bn_eps: float = 1e-5

    @property
    def variant(self) -> str:
        key = (self.embedding, self.stages, self.blocks, self.hidden)
        return VARIANTS.get(key, "custom")

    @property
    def trunk(self) -> Iterator[tuple[str, int, int, int]]:
        """Yield kind (``transition`` or ``block``), width in, width out and kernel, in order."""
        width = self.stages[0]
        for stage, (wide, count) in enumerate(zip(self.stages, self.blocks, strict=True)):
            if stage:
                yield "transition", width, wide, 3 if self.downsample == "conv" else 1
            width = wide
            for _ in range(count):
                yield "block", width, width, self.kernel or 1


@dataclass(frozen=True, kw_only=True)
class CellHyperparameters:
    """Everything that decides a phase-1 network."""

    widths: tuple[int, int]
    hidden: int
    classes: int


def sibling(shapes: Shapes) -> str:
    """Name the relative of a phase-2 network that these tensors make up; empty if they do not."""
    if len(shapes.get("embedding.weight", ())) != 2:
        return ""
    if any(name.startswith(CONTEXT_SIBLING) for name in shapes):
        return "sequence-aware (cnn_sequence)"
    return "transformer" if any(name.startswith("encoder.") for name in shapes) else ""


def is_phase_2(shapes: Shapes) -> bool:
    """Recognise phase 2 by its table, stem and the layer norm of its head."""
    wanted = {"embedding.weight": 2, "stem.conv.weight": 4, "classifier.0.weight": 1}
    return all(len(shapes.get(name, ())) == rank for name, rank in wanted.items())


def is_phase_1(shapes: Shapes) -> bool:
    """Recognise phase 1 by its first convolution, of one channel, and its classifier."""
    return (
        "embedding.weight" not in shapes
        and shapes.get("features.0.weight", ())[1:] == (1, 3, 3)
        and "classifier.1.weight" in shapes
    )


def infer(shapes: Shapes) -> Hyperparameters:
    """Read the hyperparameters of phase 2 from the shapes of its tensors.

    Raises:
        CheckpointError: If the trunk or the head is not one that this family has.
    """
    vocabulary, embedding = shapes["embedding.weight"]
    stem = shapes["stem.conv.weight"]
    stages, blocks = [stem[0]], [0]
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
    hidden, head = 0, shapes.get("classifier.2.weight", ())
    if "classifier.4.weight" in shapes:
        head = shapes["classifier.4.weight"]
        hidden = head[-1] if head else 0
    if len(head) != 2:
        raise CheckpointError("the head has neither classifier.4.weight nor classifier.2.weight")
    return Hyperparameters(
        vocabulary=vocabulary,
        embedding=embedding,
        stages=tuple(stages),
        blocks=tuple(blocks),
        kernel=next(iter(kernels), None),
        stem_kernel=stem[-1],
        downsample=DOWNSAMPLE_OF_KERNEL[transitions.pop()] if transitions else None,
        hidden=hidden,
        classes=head[0],
    )


def infer_cells(shapes: Shapes) -> CellHyperparameters:
    """Read the hyperparameters of phase 1 from the shapes of its tensors.

    Raises:
        CheckpointError: If it is not two convolutions with batch norm and two linear layers.
    """
    second, inner, outer = (
        shapes.get(f"{name}.weight", ()) for name in ("features.4", "classifier.1", "classifier.4")
    )
    if len(second) != 4 or len(inner) != 2 or len(outer) != 2:
        raise CheckpointError(
            "phase 1 is served as two convolutions with batch norm (features.0 and features.4) "
            "and two linear layers (classifier.1 and classifier.4)"
        )
    widths = (shapes["features.0.weight"][0], second[0])
    return CellHyperparameters(widths=widths, hidden=inner[0], classes=outer[0])


def expected_shapes(h: Hyperparameters) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a phase-2 network."""
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (h.vocabulary, h.embedding)}
    shapes |= _unit("stem", h.embedding, h.stages[0], h.stem_kernel)
    for index, (kind, narrow, wide, kernel) in enumerate(h.trunk):
        path = f"features.{index}"
        if kind == "block":
            shapes |= _unit(f"{path}.conv1", wide, wide, kernel)
            shapes |= _unit(f"{path}.conv2", wide, wide, kernel)
        else:
            shapes |= _unit(path, narrow, wide, kernel)
    width = h.stages[-1]
    shapes |= {"classifier.0.weight": (width,), "classifier.0.bias": (width,)}
    if not h.hidden:
        return shapes | _linear("classifier.2", width, h.classes)
    shapes |= _linear("classifier.1", width, h.hidden)
    return shapes | _linear("classifier.4", h.hidden, h.classes)


def expected_cell_shapes(h: CellHyperparameters) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a phase-1 network."""
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
    """Tell a trainable tensor from a running statistic."""
    return not name.rpartition(".")[2].startswith(("running_", "num_batches"))


def _unit(path: str, narrow: int, wide: int, kernel: int) -> dict[str, tuple[int, ...]]:
    weight = {f"{path}.conv.weight": (wide, narrow, kernel, kernel)}
    return {**weight, **_batch_norm(f"{path}.bn", wide)}


def _batch_norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    counted: dict[str, tuple[int, ...]] = {f"{path}.num_batches_tracked": ()}
    return {f"{path}.{leaf}": (width,) for leaf in BATCH_NORM} | counted


def _linear(path: str, narrow: int, wide: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (wide, narrow), f"{path}.bias": (wide,)}
