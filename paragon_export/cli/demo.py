"""``demo``: everything on the shipped checkpoint and photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paragon_export.cli.options import exit_on_failure


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to fill.")] = Path("demo"),
) -> None:
    """Run everything on the shipped checkpoint and photograph."""
    from paragon_export.cli.show.demo_flow import run

    exit_on_failure(run(output))
