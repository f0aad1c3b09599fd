"""What ``prune`` and ``distill`` show."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from paragon_export.cli.show.console import line, verdict, written
from paragon_export.pruning.report import (
    PLANNED_SIZE,
    TIMED_SIZE,
    Figures,
    SmallerResult,
)


def smaller_table(console: Console, result: SmallerResult, replaced: bool) -> None:
    """Print both networks side by side, the verdict and the file."""
    table = Table("")
    for heading in ("trained", "smaller", "change"):
        table.add_column(heading, justify="right")
    for name, (before, after) in _rows(result.before, result.after).items():
        if before is None or after is None:
            continue
        change = f"{after - before:+.4f}" if "Y" in name else f"{after / before - 1:+.0%}"
        table.add_row(name, *(_figure(name, value) for value in (before, after)), change)
    console.print(table)
    line(
        console,
        f"{result.photographs} photographs that were not fitted on; engine at {PLANNED_SIZE} in "
        f"float16 on {result.target.card}, estimated; processor at {TIMED_SIZE} in float32, measured",
    )
    limit = result.target.max_loss_db
    allowed = "any loss is accepted" if limit is None else f"at most {limit:g} are allowed"
    is_number = math.isfinite(result.lost_db)
    advice = "" if result.passed or not is_number else "; --accept-loss writes the file"
    change = f"{abs(result.lost_db):.3f} dB {'lost' if result.lost_db >= 0 else 'gained'}"
    lost = f"{change}; {allowed}" if is_number else "an output is not a number"
    verdict(console, result.passed, f"{lost}{advice}")
    if result.passed:
        written(console, result.output, replaced)


def _figure(name: str, value: float) -> str:
    if "Y" in name:
        return f"{value:.4f}" if "SSIM" in name else f"{value:.2f}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _rows(before: Figures, after: Figures) -> dict[str, tuple[float | None, float | None]]:
    return {
        "PSNR-Y dB": (before.psnr_y_db, after.psnr_y_db),
        "SSIM-Y": (before.ssim_y, after.ssim_y),
        "parameters": (before.parameters, after.parameters),
        "kFLOP a pixel": (before.flops_per_pixel / 1e3, after.flops_per_pixel / 1e3),
        "MB of weights": (before.bytes / 1e6, after.bytes / 1e6),
        "engine ms": (before.estimated_ms, after.estimated_ms),
        "processor ms": (before.cpu_ms, after.cpu_ms),
    }
