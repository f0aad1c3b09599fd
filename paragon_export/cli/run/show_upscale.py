"""What ``upscale`` shows."""

from __future__ import annotations

from rich.console import Console

from paragon_export.cli.show.console import line, note, show
from paragon_export.system.text import one_line
from paragon_export.upscaling.results import UpscaleResult


def show_result(result: UpscaleResult, *, json: bool) -> None:
    """Print what became of all inputs; a note for each that failed."""
    for failed in result.failed:
        note(f"failed: {failed.source}: {failed.reason}")
    show(json, result.to_json(), upscale_lines, result)


def upscale_lines(console: Console, result: UpscaleResult) -> None:
    """Print a line for each output, and the sum."""
    for one in result.done:
        more = (
            f", tiles of {one.tile}" if one.tile else f", {one.frames} frames" if one.frames else ""
        )
        name = one_line(str(one.output))
        line(console, f"wrote {name} ({one.size} to {one.output_size}{more})")
    count, made = len(result.done), sum(one.frames or 1 for one in result.done)
    unit = "frames" if any(one.frames for one in result.done) else "pictures"
    rate = f", {made / result.seconds:.3g} {unit}/s" if made > 1 else ""
    others = [
        f"{number} {what}"
        for number, what in ((len(result.skipped), "there already"), (len(result.failed), "failed"))
        if number
    ]
    text = ", ".join([f"{count} upscaled in {result.seconds:.1f} s{rate}", *others])
    line(console, text, style="bold red" if result.failed else "bold")
