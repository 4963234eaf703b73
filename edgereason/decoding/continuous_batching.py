"""Continuous batching (Orca, Yu et al., OSDI 2022): many sequences share the forward passes of one or several engines.

A forward pass costs little more for sixteen sequences than for one. So up to `batch_size` of them go through each
engine together; one that ends makes room for the next at once, and long prompts are prefilled in chunks between the
others' tokens, so that they do not hold them up.

What is to be generated comes as *works*: generators that yield one `Generation` after the other (guidance, then its
answer), each driven to its end before the work goes on, and that return a result. An engine that cannot batch is given
one work after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edgereason.decoding.loop import DecodeRequest, Decoding
from edgereason.decoding.prompt_lookup import MOST_ROWS
from edgereason.decoding.stops import StopStrings
from edgereason.engines.base import Batching, Engine, Logits, Session
from edgereason.errors import EdgeReasonError
from edgereason.text.tokenizer import TextPieces

DEFAULT_BATCH_SIZE = 16
"""Sequences per forward pass: as many rows as the native kernels compute exactly as each alone."""

_PREFILL = 128
"""Tokens from which on a forward pass takes no further prompt, and the longest chunk of a long one."""

T = TypeVar("T")


class Generating(Protocol):
    """A sequence that is being generated, wherever that happens."""

    @property
    def place(self) -> object:
        """Whatever computes it; sequences of one place are batched or take turns."""
        ...

    @property
    def done(self) -> bool:
        """Whether the text has ended."""
        ...

    def advance(self) -> None:
        """Generate a little more, alone."""
        ...


Work = Generator[Generating, None, T]


class Generation:
    """A sequence that an engine of ours generates. Whoever opens it closes it.

    Args:
        engine: Computes it.
        open_session: Opens the session; called when there is room for it.
        request: What to decode, and how.
        pieces: Turns tokens into text.
        on_text: Called with every piece of text as it comes.

    Attributes:
        text: What has been generated so far.
        done: Whether it has ended.
    """

    def __init__(
        self,
        engine: Engine,
        open_session: Callable[[], Session],
        request: DecodeRequest,
        pieces: TextPieces,
        on_text: Callable[[str], object] | None = None,
    ) -> None:
        self.place: Engine = engine
        self.text = ""
        self.done = False
        self._open_session = open_session
        self._request = request
        self._decoding: Decoding | None = None
        self._pieces = pieces
        self._stops = StopStrings(request.stop_strings)
        self._on_text = on_text

    @property
    def decoding(self) -> Decoding:
        """The decoding, begun where it has not been."""
        if self._decoding is None:
            self._decoding = Decoding(self._open_session(), self._request)
        return self._decoding

    def advance(self) -> None:
        """The next tokens, in a forward pass of their own."""
        decoding = self.decoding
        decoding.batch_size = 1
        ids, outputs = decoding.step()
        self.take(decoding.session.advance(ids, every=outputs > 1))

    def take(self, logits: Logits) -> None:
        """Go on with the logits of the decoding's last step."""
        decoding = self.decoding
        for token in decoding.take(logits):
            self._show(self._stops.push(self._pieces.push(token)))
            if self._stops.hit:
                break
        self.done = self._stops.hit or decoding.done
        if self.done:
            self._show(self._stops.rest())

    def close(self) -> None:
        """Free the session's memory. Closing twice is allowed."""
        if self._decoding is not None:
            self._decoding.session.close()

    def _show(self, text: str) -> None:
        if text:
            self.text += text
            if self._on_text is not None:
                self._on_text(text)


def run(
    works: Iterable[Work[T]],
    batch_size: int = DEFAULT_BATCH_SIZE,
    given_up: Callable[[int], EdgeReasonError | None] = lambda number: None,
) -> Generator[tuple[int, T | EdgeReasonError], None, None]:
    """Drive works to their ends.

    Args:
        works: Taken one by one, as there is room for them.
        batch_size: Maximum sequences per forward pass. Where works go through several engines, so many are under way
            for each.
        given_up: Asked before each forward pass whether a work of this number shall end with an error.

    Yields:
        A work's number and its result, or the `EdgeReasonError` that it raised, in the order in which they end. Closing
        the iterator ends all works that are under way and frees their memory.
    """
    batch = Batch(works, batch_size)
    try:
        while batch.fill():
            batch.give_up(given_up)
            batch.advance()
            yield from batch.collect()
    finally:
        batch.close()


@dataclass
class _Run(Generic[T]):
    """A work under way, and what it generates now."""

    number: int
    work: Work[T]
    now: Generating | None = None


class Batch(Generic[T]):
    """The works under way, oldest first, and the results that nobody has taken yet; `run` shows its use."""

    def __init__(self, works: Iterable[Work[T]], batch_size: int) -> None:
        self._fresh = enumerate(works)
        self._batch_size = batch_size
        self._places: list[object] = []
        self._room = 1  # of works under way: one where no engine can batch
        self._running: list[_Run[T]] = []
        self._ended: list[tuple[int, T | EdgeReasonError]] = []

    def fill(self) -> bool:
        """Start works while there is room for them; returns whether there is anything left to do."""
        while len(self._running) < self._room and not self._ended:
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
                run.work.close()

    def advance(self) -> None:
        """One forward pass of each engine, and the next sequence of works whose last one has ended."""
        for place in self._places:
            sequences = [run.now for run in self._running if run.now and run.now.place is place]
            if len(sequences) > 1 and isinstance(place, Batching):
                batch = [each for each in sequences[: self._batch_size] if isinstance(each, Generation)]
                _forward(place, batch)
            elif sequences:
                sequences[0].advance()
        for run in [run for run in self._running if run.now and run.now.done]:
            self._go_on(run)

    def collect(self) -> list[tuple[int, T | EdgeReasonError]]:
        """What has ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def close(self) -> None:
        """End everything that is under way."""
        for run in self._running:
            run.work.close()
        self._running = []

    def _go_on(self, run: _Run[T]) -> None:
        """Let a work come to its next sequence, or to its end."""
        outcome: T | EdgeReasonError
        try:
            run.now = next(run.work)
        except StopIteration as end:
            outcome = end.value
        except EdgeReasonError as error:
            outcome = error
        else:
            if run.now.place not in self._places:
                self._places.append(run.now.place)
                self._room = sum(self._batch_size for place in self._places if isinstance(place, Batching)) or 1
            return
        self._running.remove(run)
        self._ended.append((run.number, outcome))


_Step = tuple[Generation, tuple[list[int], int]]
"""A sequence, and what `Decoding.step` gives for it."""


def _forward(engine: Batching, sequences: Sequence[Generation]) -> None:
    """The next tokens of all sequences, and as many prompts as there is room for.

    Prompts have a forward pass of their own: kernels may compute many rows in another way than few, and so each
    sequence's tokens come from the kernels that they come from alone, whatever is beside it.
    """
    prompts = [each for each in sequences if each.decoding.prefilling]
    decoding = [each for each in sequences if not each.decoding.prefilling]
    # For what is forced and proposed; each row is computed as if it were alone.
    spare = max(0, MOST_ROWS - len(decoding))
    steps: list[_Step] = []
    for each in decoding:
        each.decoding.batch_size = len(decoding)
        steps.append((each, each.decoding.step(1 + spare)))
        spare -= len(steps[-1][1][0]) - 1
    _advance(engine, steps)
    steps, room = [], _PREFILL
    for each in prompts:
        if room > 0:
            steps.append((each, each.decoding.step(_chunk(each.decoding.pending))))
            room -= len(steps[-1][1][0])
    _advance(engine, steps)


def _chunk(pending: int) -> int:
    """The size of the chunks of a prompt of so many tokens: equal ones, so that none is left with few rows."""
    return -(-pending // -(-pending // _PREFILL))


def _advance(engine: Batching, steps: Sequence[_Step]) -> None:
    if not steps:
        return
    found = engine.advance([(each.decoding.session, ids, outputs) for each, (ids, outputs) in steps])
    for (each, _), logits in zip(steps, found, strict=True):
        each.take(logits)
