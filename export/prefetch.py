"""Prefetching: the next item is computed while the current one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_END = object()


@contextmanager
def prefetch(items: Iterable[_T]) -> Iterator[Iterator[_T]]:
    """The same items; while one is used, the next one, and no more, is computed in another thread.

    Useful where both sides release the GIL. An error is raised in place of its item. After the block the thread has
    ended, and `items` is closed if it is a generator: left to the garbage collector, a thread could be joined in the
    middle of the start of another, whose locks joining takes.
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
