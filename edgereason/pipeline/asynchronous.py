"""Answers for asyncio: the work goes on in a thread, its events come to the loop, and cancelling the task stops it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, cast

from edgereason.pipeline.results import Event, Result

if TYPE_CHECKING:
    from collections.abc import Generator

_Item = Event | BaseException | None


async def events(stream: Iterator[Event]) -> AsyncGenerator[Event, None]:
    """The events of a stream, computed in a thread of their own.

    Closing this generator, or cancelling the task that reads it, closes the stream after the token that it computes.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[_Item] = asyncio.Queue()
    stopped = threading.Event()

    def put(item: _Item) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            with closing(cast("Generator[Event, None, None]", stream)):
                for event in stream:
                    if stopped.is_set():
                        return
                    put(event)
            put(None)
        except BaseException as error:  # the reader raises it
            put(error)

    thread = threading.Thread(target=work, name="edgereason", daemon=True)
    thread.start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        await asyncio.shield(asyncio.to_thread(thread.join))


async def last_result(stream: AsyncGenerator[Event, None]) -> Result:
    """The result that ends a stream."""
    async for event in stream:
        if event.result is not None:
            return event.result
    raise AssertionError("a stream ends with its result")
