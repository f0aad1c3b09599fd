"""Overlap: threads that read ahead and write behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from paragon_export.media.overlap import WriteBehind, in_order, read_ahead


def test_items_come_in_order() -> None:
    assert list(read_ahead(iter(range(50)), 3)) == list(range(50))


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    """Though the first ones take longest; never more calls at a time, and few items are taken ahead."""
    running, most, taken = [], [], []

    def items() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        running.append(number)
        most.append(len(running))
        time.sleep(0.02 if number < 2 else 0.002)
        running.remove(number)
        return -number

    for done, (number, result) in enumerate(in_order(work, items(), count)):
        assert (number, result) == (done, -done)
        assert len(taken) <= done + count + 1
    assert done == 11
    assert max(most) == count


def test_an_error_comes_in_its_place_and_nothing_is_begun_behind() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise KeyError(number)
        return number

    computed, found = in_order(work, range(100), 2), []
    with pytest.raises(KeyError):
        found += [result for _, result in computed]
    assert len(begun) <= 5
    before = threading.active_count()
    closed = in_order(work, range(3, 100), 2)
    assert next(closed) == (3, 3)
    closed.close()
    assert threading.active_count() == before


def test_calls_that_run_are_told_to_stop_where_it_ends_early() -> None:
    """By an error, and by a caller that wants no more. It does not wait for them before."""
    told = threading.Event()
    stopped = []

    def work(number: int) -> int:
        if number == 0:
            raise KeyError(number)
        if number > 1:
            stopped.append(told.wait(10))
        return number

    with pytest.raises(KeyError):
        list(in_order(work, [0, 2, 3, 4], 3, told.set))
    told.clear()
    computed = in_order(work, [1, 2, 3, 4], 3, told.set)
    assert next(computed) == (1, 1)
    computed.close()
    assert len(stopped) >= 3
    assert all(stopped)


def test_no_more_is_read_than_asked() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(20):
            read.append(number)
            yield number

    ahead = read_ahead(items(), 3)
    next(ahead)
    time.sleep(0.3)
    assert len(read) <= 5  # one handed over, three that wait, one in hand
    ahead.close()
    assert len(read) <= 6


def test_what_reading_raises_is_raised_after_what_was_read() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 1
    with pytest.raises(KeyError):
        next(ahead)


def test_all_is_written_at_the_end() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.005)
        written.append(item)

    with WriteBehind(write, 2) as behind:
        for number in range(20):
            behind.put(number)
            assert number - len(written) <= 3  # two that wait, one in hand
    assert written == list(range(20))


def test_what_writing_raises_is_raised() -> None:
    def write(item: int) -> None:
        raise KeyError(item)

    def put_all() -> None:
        with WriteBehind(write, 2) as behind:
            for number in range(1000):
                behind.put(number)

    with pytest.raises(KeyError):
        put_all()


def test_what_writing_the_last_raises_is_raised() -> None:
    def write(item: int) -> None:
        raise KeyError(item)

    with pytest.raises(KeyError), WriteBehind(write, 2) as behind:
        behind.put(1)


def test_an_error_of_the_block_loses_no_item_and_ends_the_thread() -> None:
    written: list[int] = []
    before = threading.active_count()

    def fail() -> None:
        with WriteBehind(written.append, 5) as behind:
            for number in range(4):
                behind.put(number)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert written == [0, 1, 2, 3]
    assert threading.active_count() == before
