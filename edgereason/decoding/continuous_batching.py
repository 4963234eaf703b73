"""Many texts at once: continuous batching (Orca, Yu et al., OSDI 2022) over the engines of a pipeline's stages.

A pass over the weights costs little more for sixteen sequences than for one. So up to `size` of them go through each
engine together; one that ends makes room at once for the next, and prompts are read in pieces between the others'
tokens, so that a long one does not hold them up.

What is to be written comes as *works*: generators that yield one `Writing` after the other (a guidance, then its
answer), each driven to its end before the work goes on, and that return a result. An engine that cannot compute
several sequences in one pass is given one work after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from edgereason.decoding.loop import Decoding
from edgereason.decoding.prompt_lookup import MOST_ROWS
from edgereason.decoding.stops import StopStrings
from edgereason.engines.base import Batching, Engine, Logits
from edgereason.errors import EdgeReasonError
from edgereason.text.tokenizer import TextPieces

DEFAULT_SIZE = 16
"""Sequences in one pass: as many rows as the native kernels compute exactly as each alone."""

_PREFILL = 128
"""From how many tokens on a pass takes no further prompt, and how long the pieces of a long one are at most."""

T = TypeVar("T")
Work = Generator["Writing", None, T]


class Writing:
    """A text under way.

    Args:
        engine: Computes it.
        begin: Opens the text's session and starts its decoding; called when there is room for it.
        stream: Turns tokens into text.
        stop_strings: End the text and are not part of it.

    Attributes:
        text: What is written so far.
        done: Whether it has ended; its session is closed then.
    """

    def __init__(
        self, engine: Engine, begin: Callable[[], Decoding], stream: TextPieces, stop_strings: Sequence[str] = ()
    ) -> None:
        self.engine = engine
        self.text = ""
        self.done = False
        self._begin = begin
        self._decoding: Decoding | None = None
        self._stream = stream
        self._stops = StopStrings(stop_strings)

    @property
    def decoding(self) -> Decoding:
        """The decoding, begun where it has not been."""
        if self._decoding is None:
            self._decoding = self._begin()
        return self._decoding

    def take(self, logits: Logits) -> None:
        """Go on by the logits of the decoding's last step."""
        for token in self.decoding.take(logits):
            self.text += self._stops.push(self._stream.push(token))
            if self._stops.hit:
                break
        self.done = self._stops.hit or self.decoding.done
        if self.done:
            self.text += self._stops.rest()
            self.close()

    def close(self) -> None:
        """Give the session's memory back. Closing twice is allowed."""
        if self._decoding is not None:
            self._decoding.session.close()


def run(
    works: Iterable[Work[T]],
    size: int = DEFAULT_SIZE,
    given_up: Callable[[int], EdgeReasonError | None] = lambda number: None,
) -> Generator[tuple[int, T | EdgeReasonError], None, None]:
    """Drive works to their ends.

    Args:
        works: Taken one by one, as there is room for them.
        size: Most sequences in one pass. Where works go through several engines, so many are under way for each.
        given_up: Asked before each pass whether a work of this number shall end with an error.

    Yields:
        A work's number and its result, or the `EdgeReasonError` that it raised, in the order in which they end. Closing
        the iterator ends all works that are under way and frees their memory.
    """
    batch = _Batch(works, size)
    try:
        while batch.fill():
            batch.give_up(given_up)
            batch.advance()
            yield from batch.collect()
    finally:
        batch.close()


@dataclass
class _Run(Generic[T]):
    """A work under way, and what it writes now."""

    number: int
    work: Work[T]
    writing: Writing | None = None


class _Batch(Generic[T]):
    """The works under way, oldest first, and the results that nobody has taken yet."""

    def __init__(self, works: Iterable[Work[T]], size: int) -> None:
        self._fresh = enumerate(works)
        self._size = size
        self._engines: list[Engine] = []
        self._running: list[_Run[T]] = []
        self._ended: list[tuple[int, T | EdgeReasonError]] = []

    def fill(self) -> bool:
        """Start works while there is room for them; returns whether there is anything left to do."""
        while len(self._running) < self._places() and not self._ended:
            entry = next(self._fresh, None)
            if entry is None:
                break
            run = _Run(*entry)
            self._running.append(run)
            self._go_on(run)
        return bool(self._running or self._ended)

    def give_up(self, given_up: Callable[[int], EdgeReasonError | None]) -> None:
        """End works with an error, and free their memory."""
        for run in list(self._running):
            error = given_up(run.number)
            if error is not None:
                self._running.remove(run)
                self._ended.append((run.number, error))
                _close(run)

    def advance(self) -> None:
        """One pass of each engine, and the next text of works whose last one has ended."""
        for engine in self._engines:
            writings = [run.writing for run in self._running if run.writing and run.writing.engine is engine]
            if isinstance(engine, Batching):
                _pass(engine, writings[: self._size])
            else:
                _one(writings[:1])
        for run in [run for run in self._running if run.writing and run.writing.done]:
            self._go_on(run)

    def collect(self) -> list[tuple[int, T | EdgeReasonError]]:
        """What has ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """End everything that is under way."""
        for run in self._running:
            _close(run)

    def _places(self) -> int:
        """How many works may be under way: one where no engine can compute several."""
        return sum(self._size for engine in self._engines if isinstance(engine, Batching)) or 1

    def _go_on(self, run: _Run[T]) -> None:
        """Let a work come to its next writing, or to its end."""
        outcome: T | EdgeReasonError
        try:
            run.writing = next(run.work)
        except StopIteration as end:
            outcome = end.value
        except EdgeReasonError as error:
            outcome = error
        else:
            if run.writing.engine not in self._engines:
                self._engines.append(run.writing.engine)
            return
        self._running.remove(run)
        self._ended.append((run.number, outcome))


def _close(run: _Run[T]) -> None:
    if run.writing:
        run.writing.close()
    run.work.close()


_Piece = tuple[Writing, tuple[list[int], int]]
"""A text, and what `Decoding.step` gives for it."""


def _pass(engine: Batching, writings: Sequence[Writing]) -> None:
    """The next tokens of all texts, and of the prompts as many as there is room for.

    Prompts have a pass of their own: kernels may compute many rows in another way than few, and so each text's tokens
    come from the kernels that they come from alone, whatever is beside it.
    """
    prompts = [writing for writing in writings if writing.decoding.prefilling]
    started = [writing for writing in writings if not writing.decoding.prefilling]
    # For what is forced and proposed; each row is computed as if it were alone.
    spare = max(0, MOST_ROWS - len(started))
    pieces: list[_Piece] = []
    for writing in started:
        writing.decoding.texts = len(started)
        pieces.append((writing, writing.decoding.step(1 + spare)))
        spare -= len(pieces[-1][1][0]) - 1
    _advance(engine, pieces)
    pieces, room = [], _PREFILL
    for writing in prompts:
        if room > 0:
            pieces.append((writing, writing.decoding.step(_piece(writing.decoding.pending))))
            room -= len(pieces[-1][1][0])
    _advance(engine, pieces)


def _piece(pending: int) -> int:
    """Into pieces of which size to cut so many tokens of a prompt: equal ones, so that none is left with few rows."""
    return -(-pending // -(-pending // _PREFILL))


def _advance(engine: Batching, steps: Sequence[_Piece]) -> None:
    if not steps:
        return
    found = engine.advance([(writing.decoding.session, ids, outputs) for writing, (ids, outputs) in steps])
    for (writing, _), logits in zip(steps, found, strict=True):
        writing.take(logits)


def _one(writings: Sequence[Writing]) -> None:
    for writing in writings:
        ids, outputs = writing.decoding.step()
        writing.take(writing.decoding.session.advance(ids, every=outputs > 1))
