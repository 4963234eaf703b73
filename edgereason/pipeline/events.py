"""Streams of events that are made of others: a vote's, and one that has to be complete in time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, cast

from edgereason.errors import OutOfTimeError
from edgereason.pipeline.results import Event

if TYPE_CHECKING:
    from edgereason.pipeline.batch import Outcomes


def voted(outcomes: Outcomes) -> Iterator[Event]:
    """A single vote as the events of a stream."""
    with closing(outcomes):
        outcome = next(outcomes)
    if outcome.error is not None:
        raise outcome.error
    result = outcome.result
    assert result is not None
    if result.guidance:
        yield Event("guidance", result.guidance)
    yield Event("answer", result.answer)
    yield Event("result", result.final or "", result)


def in_time(events: Iterator[Event], seconds: float) -> Iterator[Event]:
    """The events of a stream, as long as they come in time."""
    end = time.perf_counter() + seconds
    with closing(cast("Generator[Event, None, None]", events)):
        for event in events:
            yield event
            if event.result is None and time.perf_counter() > end:
                raise OutOfTimeError(
                    f"The answer was not complete after {seconds:g} s.", "Raise --timeout, or lower --max-tokens."
                )
