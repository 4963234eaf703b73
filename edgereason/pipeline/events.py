"""Streams of events: a question's as it is answered, a vote's, and one that has to be complete in time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, cast

from edgereason.bundle import Stage
from edgereason.decoding.continuous_batching import Batch
from edgereason.errors import EdgeReasonError, OutOfTimeError
from edgereason.pipeline.options import AskOptions
from edgereason.pipeline.results import Event
from edgereason.pipeline.runtime import Runtime
from edgereason.pipeline.two_stages import TwoStages

if TYPE_CHECKING:
    from edgereason.pipeline.batch import Outcomes


def streamed(
    runtime: Runtime, question: str, options: AskOptions, stages: Mapping[str, Stage], load_s: float
) -> Iterator[Event]:
    """A question as a batch of one: its texts piece by piece, and last its result.

    Raises:
        EdgeReasonError: what `TwoStages.work` raises.
    """
    events: deque[Event] = deque()
    work = TwoStages(runtime, question, options, stages, load_s, events.append).work()
    with closing(Batch([work], 1)) as batch:
        while batch.fill():
            batch.advance()
            while events:
                yield events.popleft()
            for _, outcome in batch.collect():
                if isinstance(outcome, EdgeReasonError):
                    raise outcome
                yield Event("result", outcome.final or "", outcome)


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
