"""Doing two things at a time: what comes next is made while what there is is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_END = object()


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items; while one is used, the next is made in another thread, and no more than that one.

    Worth it where both sides read, write or compute outside of the interpreter's lock. An error comes where the item
    would have come.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as thread:
        item: object = next(source, _END)
        while item is not _END:
            following = thread.submit(next, source, _END)
            yield item  # type: ignore[misc]  # an item: it is not the end
            del item  # before the next but one is made
            item = following.result()
