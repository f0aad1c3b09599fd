"""What the benchmark scripts share: random full-size networks and result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paragon_export.artifact import to_json
from paragon_export.environment import environment
from paragon_export.families.paragonsr2.layout import Hyperparameters
from paragon_export.families.paragonsr2.network import ParagonSR2
from paragon_export.variant import Port

RESULTS = Path(__file__).parent / "results"

SIZES = {"realtime": (16, 1, 3), "stream": (32, 2, 3), "photo": (64, 4, 4), "pro": (64, 6, 6)}
"""Features, groups and blocks of the published variants."""


def network(variant: str, scale: int = 2) -> ParagonSR2:
    """Return a published variant with random weights, eval mode."""
    torch.manual_seed(0)
    features, groups, blocks = SIZES[variant]
    pro = variant == "pro"
    module = ParagonSR2(
        Hyperparameters(
            variant=variant,
            scale=scale,
            in_channels=3,
            features=features,
            groups=groups,
            blocks=blocks,
            attention=variant in ("photo", "pro"),
            layer_scale=True,
            window_size=16,
            upsampler_alpha=0.0,
            tokens=64 if pro else 0,
            token_width=16 if pro else 0,
            squeeze=features // 16 if pro else 0,
        )
    )
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.05)  # large enough to matter, small enough for 36 blocks
    return module.requires_grad_(False).eval()


def ports(scale: int) -> tuple[list[Port], list[Port]]:
    """Return the dynamic ports of a still network."""
    return (
        [Port("input", ("batch", 3, "height", "width"))],
        [Port("output", ("batch", 3, f"{scale}*height", f"{scale}*width"))],
    )


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write rows and provenance to ``results/NAME.json`` and print them as a Markdown table."""
    RESULTS.mkdir(exist_ok=True)
    document = {"rows": rows, "environment": environment()}
    (RESULTS / f"{name}.json").write_text(to_json(document), encoding="utf-8")
    headings = list(rows[0])
    print("| " + " | ".join(headings) + " |")
    print("|" + " --- |" * len(headings))
    for row in rows:
        print("| " + " | ".join(_cell(row[heading]) for heading in headings) + " |")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
