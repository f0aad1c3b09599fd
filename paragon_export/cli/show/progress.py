"""Show the steps of a command on stderr: one line that moves on a terminal, or a log."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console

from paragon_export.system.signals import before_end
from paragon_export.system.text import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

REFRESHES_PER_SECOND = 5

MIN_LOGGED_SECONDS = 2.0
"""Steps within other steps are logged only if they take longer."""

RESTORE = b"\r\x1b[K\x1b[?25h"
"""Clears the line and shows the cursor, which Rich hides while the line is there."""


@dataclass
class _Step:
    name: str
    total: int | None
    unit: str = ""
    count: int = 0
    start: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        if not self.count or not (self.total or self.unit):
            return one_line(self.name)
        counted = f"{self.count} of {self.total}" if self.total else str(self.count)
        return f"{one_line(self.name)} {counted}{self._rate()}"

    def _rate(self) -> str:
        """Return the rate of what is done, and the time that the rest will take at it."""
        done, seconds = self.count - 1, time.monotonic() - self.start
        if not self.unit or not done or not seconds:
            return f" {self.unit}".rstrip()
        rest = max(0, self.total - done) if self.total else 0
        left = f", {timedelta(seconds=round(rest * seconds / done))} left" if rest else ""
        return f" {self.unit}, {done / seconds:.3g}/s{left}"


class StderrReporter:
    """Shows the steps that run on one line, and logs those that have ended."""

    def __init__(self, *, live: bool, log: bool, in_background: bool = True) -> None:
        """Choose what is shown.

        Args:
            live: Show the line that moves; stderr must be a terminal.
            log: Print one line, with its seconds, for each step that ends.
                Without both, only the lines of ``tell`` are printed.
            in_background: Let a thread move the line. Off where times are measured.
        """
        self._live, self._log, self._in_background = live, log, in_background
        self._console = Console(stderr=True, highlight=False)
        self._steps: list[_Step] = []
        self._progress: Progress | None = None
        if live:
            before_end(self._restore_terminal)

    def begin(self, name: str, total: int | None, unit: str = "") -> None:
        self._steps.append(_Step(name, total, unit))
        self._draw()

    def advance(self) -> None:
        self._steps[-1].count += 1
        self._draw()

    def end(self) -> None:
        step = self._steps.pop()
        seconds = time.monotonic() - step.start
        self._draw()
        if self._log and (not self._steps or seconds >= MIN_LOGGED_SECONDS):
            indent = "  " * len(self._steps)
            text = f"{indent}{step}: {seconds:.1f} s"
            self.tell(text)

    def tell(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True, style="dim")

    def _draw(self) -> None:
        """Bring the line up to date; it disappears when no step runs."""
        if not self._live:
            return
        if not self._steps:
            if self._progress:
                self._progress.stop()
                self._progress = None
            return
        if self._progress is None:
            self._progress = self._started()
        (task,) = self._progress.task_ids
        text = ": ".join(map(str, self._steps))
        self._progress.update(task, description=text, refresh=True)

    def _started(self) -> Progress:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=self._in_background,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        progress.add_task("", total=None)
        progress.start()
        return progress

    def _restore_terminal(self) -> None:
        if self._progress:
            with suppress(OSError):
                os.write(2, RESTORE)
