"""The networks of the glyph classifier. Attribute names are the names of tensors in checkpoints.

Dropout has no effect in eval mode: an identity takes its place, so that the indices of the layers
stay the same.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.glyph.layout import CELL, CellHyperparameters, Hyperparameters

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
"""GELU is ``x Phi(x)`` with the exact normal distribution function Phi."""


class ConvUnit(nn.Module):
    """Convolution without bias, zero-padded by half the kernel size; batch norm; activation."""

    def __init__(
        self, h: Hyperparameters, into: int, out: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=h.bn_eps)
        self.act = ACTIVATIONS[h.activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """``x + unit2(unit1(x))``, without an activation after the sum."""

    def __init__(self, h: Hyperparameters, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(h, width, width, kernel)
        self.conv2 = ConvUnit(h, width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class GlyphClassifier(nn.Module):
    """Phase 2: classify grids of primitive IDs."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.normalize = h.normalize_embeddings
        self.embedding = nn.Embedding(h.vocabulary, h.embedding)
        self.stem = ConvUnit(h, h.embedding, h.stages[0], h.stem_kernel, h.stem_stride)
        stride = 2 if h.downsample == "conv" else 1
        self.features = nn.Sequential(
            *(
                ResidualBlock(h, out, kernel)
                if kind == "block"
                else ConvUnit(h, into, out, kernel, stride)
                for kind, into, out, kernel in h.trunk
            )
        )
        width = h.stages[-1]
        head: list[nn.Module] = [nn.LayerNorm(width, eps=1e-5)]
        if h.hidden:
            head += [nn.Linear(width, h.hidden), ACTIVATIONS[h.activation]()]
        head += [nn.Identity(), nn.Linear(h.hidden or width, h.classes)]
        self.classifier = nn.Sequential(*head)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (N, classes) in the dtype of the weights.

        Args:
            ids: Primitive IDs (N, 16, 16), int64, from 0 to ``vocabulary - 1``, rows first.
        """
        table = self.embedding.weight
        if self.normalize:  # a float32 island: F.normalize's epsilon 1e-12 is 0 in float16
            table = narrow(F.normalize(widen(table), dim=-1), table)
        x = F.embedding(ids, table).permute(0, 3, 1, 2)
        x = self.features(self.stem(x))
        return self.classifier(x.mean(dim=(2, 3)))


class CellClassifier(nn.Module):
    """Phase 1: classify cells of pixels as primitives."""

    def __init__(self, h: CellHyperparameters) -> None:
        super().__init__()
        first, second = h.widths
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * (CELL // 4) ** 2, h.hidden),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(h.hidden, h.classes),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Return logits (N, classes) for cells (N, 1, 8, 8), floating point in [0, 1]."""
        return self.classifier(self.features(cells))
