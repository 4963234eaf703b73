"""Doing two things at a time: what comes next is made while what there is is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_END = object()


@contextmanager
def ahead(items: Iterable[_T]) -> Iterator[Iterator[_T]]:
    """The same items; while one is used, the next is made in another thread, and no more than that one.

    Worth it where both sides read, write or compute outside of the interpreter's lock. An error comes where the item
    would have come. When the block ends, so has the thread, and `items` is closed if it is a generator: left to the
    garbage collector, a thread could be joined in the middle of the start of another, whose locks joining takes.
    """
    source = iter(items)
    try:
        with ThreadPoolExecutor(1) as thread:
            yield _one_ahead(source, thread)
    finally:
        if isinstance(source, Generator):
            source.close()


def _one_ahead(source: Iterator[_T], thread: Executor) -> Iterator[_T]:
    item: object = next(source, _END)
    while item is not _END:
        following = thread.submit(next, source, _END)
        yield item  # type: ignore[misc]  # an item: it is not the end
        del item  # before the next but one is made
        item = following.result()
