"""Items come as they would without the thread, one ahead of their use and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edgereason.export.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_nothing_is_lost_or_reordered(count: int) -> None:
    assert list(ahead(iter(range(count)))) == list(range(count))


def test_the_next_item_is_made_while_one_is_used_and_no_other() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for index in range(4):
            made.append(index)
            if index == 1:
                second.set()
            yield index

    used = ahead(items())
    assert next(used) == 0
    assert second.wait(10)  # nobody has asked for it yet
    assert made == [0, 1]
    assert next(used) == 1
    assert list(used) == [2, 3]


def test_an_error_comes_in_its_items_place() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise OSError("full")

    used = ahead(items())
    assert next(used) == 0
    with pytest.raises(OSError, match="full"):
        next(used)


def test_a_user_who_stops_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    used = ahead(iter(range(10)))
    next(used)
    used.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
