"""Background: files are read and written while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import TypeVar

import numpy as np

from paragon_export.media.saving import Layout, saving

Item = TypeVar("Item")
Value = TypeVar("Value")

AHEAD = 2
"""Files that are read before they are needed."""

BLOCKS = 4
"""Blocks of rows that wait to be written."""

WAIT_S = 0.1


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Value]
) -> Iterator[tuple[Item, Callable[[], Value]]]:
    """Yield items with calls that return what was read of them, or raise what reading raised."""
    waiting: deque[tuple[Item, Future[Value]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > AHEAD:
                done, future = waiting.popleft()
                yield done, future.result
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result


class WrittenBehind:
    """One picture that is written by another thread; see ``saving``."""

    def __init__(self, pool: ThreadPoolExecutor, path: Path, layout: Layout) -> None:
        """Begin a picture."""
        self._blocks: Queue[np.ndarray | None] = Queue(BLOCKS)
        self._failed = False
        self.done = pool.submit(self._run, path, layout)
        """Ends when the file is there; raises what writing it raised."""

    def write(self, rows: np.ndarray) -> None:
        """Hand over the next rows, (rows, W, channels); see ``PngWriter.write``."""
        self._put(rows)

    def end(self, *, failed: bool = False) -> None:
        """Say that all rows were handed over, or that no more will come; then nothing is written."""
        self._failed = failed
        self._put(None)

    def _put(self, block: np.ndarray | None) -> None:
        while not self.done.done():  # a writer that failed takes no more
            with suppress(Full):
                self._blocks.put(block, timeout=WAIT_S)
                return

    def _run(self, path: Path, layout: Layout) -> None:
        with suppress(_NoPictureError), saving(path, layout) as rows:
            while (block := self._blocks.get()) is not None:
                rows.write(block)
            if self._failed:
                raise _NoPictureError


class _NoPictureError(Exception):
    """Ends the writing of a picture that could not be computed."""
