"""Items come as they would without the thread, one ahead of their use and no more."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from edgereason.export.prefetch import prefetch


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_nothing_is_lost_or_reordered(count: int) -> None:
    with prefetch(iter(range(count))) as items:
        assert list(items) == list(range(count))


def test_the_next_item_is_made_while_one_is_used_and_no_other() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for index in range(4):
            made.append(index)
            if index == 1:
                second.set()
            yield index

    with prefetch(items()) as used:
        assert next(used) == 0
        assert second.wait(10)  # nobody has asked for it yet
        assert made == [0, 1]
        assert next(used) == 1
        assert list(used) == [2, 3]


def test_an_error_comes_in_its_items_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("full")

    with prefetch(items()) as used:
        assert next(used) == 0
        with pytest.raises(OSError, match="full"):
            next(used)


def test_a_user_who_stops_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    with prefetch(iter(range(10))) as used:
        next(used)
    assert not set(threading.enumerate()) - before


@pytest.fixture
def without_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collection")
def test_threads_within_threads_end_without_the_garbage_collector() -> None:
    # A thread that the collector joined, while another was being started, made the process hang for good.
    def items() -> Iterator[int]:
        with prefetch(iter(range(10))) as inner:
            yield from inner

    def use() -> None:
        with prefetch(items()) as used:
            next(used)
            raise OSError("full")

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="full") as error:
        use()
    assert not set(threading.enumerate()) - before
    assert error.tb is not None  # its frames are alive, and what they refer to
