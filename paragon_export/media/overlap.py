"""Overlap: threads read, compute and write at a time; no more than a few items wait between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

WAIT_S = 0.1
"""How often a waiting thread looks whether the other one has ended."""


def in_order(
    function: Callable[[Item], Value],
    items: Iterable[Item],
    count: int,
    stop: Callable[[], object] = lambda: None,
) -> Generator[tuple[Item, Value], None, None]:
    """Yield items, each with what a function makes of it, in their order.

    Args:
        function: Called from ``count`` threads at a time; from this one if it is 1.
        items: Taken from this thread, one more than are being worked on.
        count: Calls at a time.
        stop: Called if this ends early, before it waits for the calls that run.

    Raises:
        BaseException: What the function raises, in the place of its item. At most ``count`` items behind it
            were begun.
    """
    if count == 1:
        for item in items:
            yield item, function(item)
        return
    waiting: deque[tuple[Item, Future[Value]]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > count:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BaseException:
            stop()
            raise


def read_ahead(items: Iterable[Item], count: int) -> Generator[Item, None, None]:
    """Yield items that another thread produces, at most ``count`` ahead.

    What it raises is raised here. If the caller stops early, so does the thread.
    """
    waiting: Queue[tuple[Item | None, BaseException | None]] = Queue(count)
    is_over = Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> None:
        while not is_over.is_set():
            with suppress(Full):
                return waiting.put(entry, timeout=WAIT_S)

    def run() -> None:
        try:
            for item in items:
                put((item, None))
                if is_over.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001  (raised again by the other thread)
            put((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        is_over.set()
        thread.join()


class WriteBehind(Generic[Item]):
    """Hands items to a function that another thread calls, at most ``count`` behind.

    At the end of the block all items are written, also if it ends with an error. What the function
    raises is raised by ``put`` or at the end of the block.
    """

    def __init__(self, write: Callable[[Item], None], count: int) -> None:
        """Take the function."""
        self._write = write
        self._waiting: Queue[tuple[Item] | None] = Queue(count)
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> WriteBehind[Item]:
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand over an item."""
        self._put((item,))
        if self._error is not None:
            raise self._error

    def _put(self, entry: tuple[Item] | None) -> None:
        while self._error is None:
            with suppress(Full):
                return self._waiting.put(entry, timeout=WAIT_S)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (entry := self._waiting.get()) is not None:
                self._write(*entry)
        except BaseException as error:  # noqa: BLE001  (raised again by the other thread)
            self._error = error
