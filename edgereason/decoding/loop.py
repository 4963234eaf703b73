"""The decoding loop, one for every engine: which tokens to compute next, and which ones their logits add."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from edgereason.bundle import Sampling
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.prompt_lookup import MOST_ROWS, PromptLookup
from edgereason.decoding.result_forcing import ResultForcing
from edgereason.decoding.sampling import Floats, Sampler
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Session


@dataclass(frozen=True)
class DecodeRequest:
    """What a sequence begins with, and how its tokens are chosen.

    Attributes:
        prompt: Token ids, at least one.
        max_new_tokens: Maximum tokens to generate, those that `forcing` writes included.
        sampling: How tokens are sampled; greedy by default.
        stop_ids: Tokens that end the sequence.
        stop_strings: Strings that end its text and are not part of it.
        lookup: Proposes tokens, so that one forward pass may bring several; the tokens are the same with and without.
        forcing: Writes the results of computations.
        confidence: Hears of every sampled token, the one that ends the sequence included.
        timings: Filled in as tokens come.
        started: When the stage began (`time.perf_counter`), rendering and tokenizing included.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    lookup: PromptLookup | None = None
    forcing: ResultForcing | None = None
    confidence: Confidence | None = None
    timings: StageTimings = field(default_factory=StageTimings)
    started: float = field(default_factory=time.perf_counter)


class Decoding:
    """One sequence under way.

    The loop around it may drive one sequence (`decode_ids`) or a batch (`edgereason.decoding.continuous_batching`):

        while not decoding.done:
            ids, outputs = decoding.step()
            tokens = decoding.take(logits)  # [outputs, vocab], those that follow the last of `ids`

    Args:
        session: Computes the tokens. It may hold the beginning of the prompt already, except for its last token.
        request: What to decode, and how.

    Attributes:
        session: As given.
        batch_size: How many sequences share the forward passes.
        done: Whether the sequence has ended.
    """

    def __init__(self, session: Session, request: DecodeRequest) -> None:
        self.session = session
        self.batch_size = 1
        self.done = False
        self.timings = request.timings
        self.timings.prompt_tokens, self.timings.cached_tokens = len(request.prompt), session.length
        self._begin = time.perf_counter()
        self._started = request.started
        self._first: float | None = None
        self._sampler = Sampler(request.sampling, request.prompt)
        self._stop_ids = request.stop_ids
        self._left = request.max_new_tokens
        self._lookup = request.lookup
        self._forcing = request.forcing
        self._confidence = request.confidence
        self._pending = list(request.prompt[session.length :])
        self._proposed: list[int] = []
        self._computing = 0

    @property
    def prefilling(self) -> bool:
        """Whether tokens of the prompt are still to be computed."""
        return self._first is None

    @property
    def pending(self) -> int:
        """How many tokens are to be computed next: the rest of the prompt, or what was sampled, forced and proposed."""
        return len(self._pending)

    def step(self, most: int | None = None) -> tuple[list[int], int]:
        """The ids to append to the session next, and for how many of them, the last ones, logits are wanted.

        Args:
            most: Cuts a long prompt, or forced tokens, into pieces of so many ids; a piece that is not the last wants
                no logits. By default a prompt is one piece, and other pieces have at most 16. Proposed tokens for which
                there is no room are given up.
        """
        if most is not None and self._proposed:
            self._give_up(min(len(self._proposed), max(0, len(self._pending) - most)))
        ids = self._pending[: most or (None if self.prefilling else MOST_ROWS)]
        self._computing = len(ids)
        return ids, 1 + len(self._proposed) if len(ids) == len(self._pending) else 0

    def take(self, logits: Floats) -> list[int]:
        """Sample from the logits of `step`'s ids; returns the tokens that the sequence goes on with, no stop token."""
        self._pending = self._pending[self._computing :]
        if self._pending:  # the prompt goes on, or what was forced
            return []
        if self.prefilling:
            self.timings.prefill_s = time.perf_counter() - self._begin
        tokens, kept = self._sample(logits)
        if kept < len(self._proposed):
            self.session.truncate(self.session.length - len(self._proposed) + kept)
        self._count(len(tokens))
        if tokens[-1] in self._stop_ids:
            self.done = True
            return tokens[:-1]
        self.done = self._left == 0
        if not self.done:
            self._propose(tokens, kept)
        return tokens

    def _sample(self, logits: Floats) -> tuple[list[int], int]:
        """One token, and one more for as long as the proposed ones are those that are sampled; then what is forced.

        Returns:
            The tokens, and how many of them are the proposed ones, which have been computed.
        """
        tokens: list[int] = []
        forced: list[int] = []
        rows = logits[-1 - len(self._proposed) :]  # a session gives one for each forced token as well
        for row, proposed in zip(rows, [*self._proposed, None], strict=True):
            if not forced:
                forced = self._next(row)
            tokens.append(forced.pop(0))
            if tokens[-1] != proposed:
                break
        return (tokens + forced)[: self._left], len(tokens) - 1

    def _next(self, logits: Floats) -> list[int]:
        """The sampled token, with those that it forces."""
        token = self._sampler.sample(logits)
        if self._confidence is not None:
            self._confidence.add(logits, token)
        if self._forcing is None or token in self._stop_ids:
            return [token]
        tokens = self._forcing.take(token)
        if len(tokens) > 1:
            self._sampler.see(tokens)
        return tokens

    def _propose(self, tokens: list[int], kept: int) -> None:
        if self._lookup is not None:
            self._lookup.learn(len(self._proposed), kept)
            self._lookup.extend(tokens)
            rows = MOST_ROWS - len(tokens[kept:])
            proposed = self._lookup.propose(min(self._left - 1, rows), self.batch_size) if rows > 0 else []
            # A stop token has no row after it that anybody could need.
            self._proposed = list(takewhile(lambda token: token not in self._stop_ids, proposed))
        self._pending = [*tokens[kept:], *self._proposed]

    def _give_up(self, count: int) -> None:
        """Compute so many of the proposed tokens not, the last ones."""
        if count:
            del self._proposed[-count:], self._pending[-count:]

    def _count(self, generated: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first, self.timings.ttft_s = now, now - self._started
        self._left -= generated
        self.timings.new_tokens += generated
        self.timings.decode_s = now - self._first


def decode_ids(session: Session, request: DecodeRequest) -> Iterator[int]:
    """Feed a request's prompt to the session and yield the tokens that follow, up to and without a stop token."""
    decoding = Decoding(session, request)
    while not decoding.done:
        ids, outputs = decoding.step()
        yield from decoding.take(session.advance(ids, every=outputs > 1))
