"""What ``upscale`` shows."""

from __future__ import annotations

from rich.console import Console

from paragon_export.cli.show.console import line
from paragon_export.upscaling.results import UpscaleResult


def upscale_lines(console: Console, result: UpscaleResult) -> None:
    """Print a line for each output, and the sum."""
    for one in result.done:
        tiles = f", tiles of {one.tile}" if one.tile else ""
        line(console, f"wrote {one.output} ({one.size} to {one.output_size}{tiles})")
    count = len(result.done)
    rate = f", {count / result.seconds:.3g} pictures/s" if count > 1 else ""
    others = [
        f"{number} {what}"
        for number, what in ((len(result.skipped), "there already"), (len(result.failed), "failed"))
        if number
    ]
    text = ", ".join([f"{count} upscaled in {result.seconds:.1f} s{rate}", *others])
    line(console, text, style="bold red" if result.failed else "bold")
