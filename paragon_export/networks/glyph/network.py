"""The networks of the glyph classifier in PyTorch. Attribute names are key names of checkpoints.

Dropout computes nothing once a network is trained and is not built; where it stood, a number of
``classifier`` is left out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from paragon_export.networks.float32 import narrow, widen
from paragon_export.networks.glyph.layout import CELL, CellHyperparameters, Hyperparameters

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
"""GELU is the exact one, ``x Phi(x)`` by the error function."""


class ConvUnit(nn.Module):
    """Convolution without bias, zero padded by half its kernel; batch norm; activation."""

    def __init__(
        self, h: Hyperparameters, narrow_: int, wide: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(narrow_, wide, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(wide, eps=h.bn_eps)
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
    """Phase 2: a grid of primitive IDs in, a logit for each class out."""

    def __init__(self, h: Hyperparameters) -> None:
        super().__init__()
        self.normalize = h.normalize_embeddings
        self.embedding = nn.Embedding(h.vocabulary, h.embedding)
        self.stem = ConvUnit(h, h.embedding, h.stages[0], h.stem_kernel, h.stem_stride)
        stride = 2 if h.downsample == "conv" else 1
        self.features = nn.Sequential(
            *(
                ResidualBlock(h, wide, kernel)
                if kind == "block"
                else ConvUnit(h, narrow_, wide, kernel, stride)
                for kind, narrow_, wide, kernel in h.trunk
            )
        )
        width = h.stages[-1]
        head: list[nn.Module] = [nn.LayerNorm(width, eps=1e-5)]
        if h.hidden:
            head += [nn.Linear(width, h.hidden), ACTIVATIONS[h.activation]()]
        head += [nn.Identity(), nn.Linear(h.hidden or width, h.classes)]
        self.classifier = nn.Sequential(*head)

    def forward(self, ids: Tensor) -> Tensor:
        """Classify glyphs.

        Args:
            ids: (N, 16, 16) int64, rows then columns, from 0 to below the vocabulary.

        Returns:
            (N, classes) logits, in the dtype of the weights.
        """
        table = self.embedding.weight
        if self.normalize:  # each row by max(its L2 norm, 1e-12), which half cannot hold
            table = narrow(F.normalize(widen(table), dim=-1), table)
        x = F.embedding(ids, table).permute(0, 3, 1, 2)
        x = self.features(self.stem(x))
        return self.classifier(x.mean(dim=(2, 3)))


class CellClassifier(nn.Module):
    """Phase 1: a cell of pixels in, a logit for each primitive out."""

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
        """Classify cells: (N, 1, 8, 8) in [0, 1] to (N, classes) logits."""
        return self.classifier(self.features(cells))
