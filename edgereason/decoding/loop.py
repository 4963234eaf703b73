"""One decoding loop for every engine: sampling, stop tokens, stop strings, streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import takewhile

from edgereason.decoding.confidence import Confidence
from edgereason.decoding.prompt_lookup import MOST_ROWS, PromptLookup
from edgereason.decoding.result_forcing import ResultForcing
from edgereason.decoding.sampling import Floats, Sampler
from edgereason.decoding.stops import StopStrings
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Session
from edgereason.text.tokenizer import TextPieces


class Decoding:
    """One sequence on its way: which tokens to compute next, and which ones their logits add.

    The loop around it may drive one sequence (`decode_ids`) or several in common passes (`edgereason.pipeline.batch`):

        while not decoding.done:
            ids, outputs = decoding.step()
            tokens = decoding.take(logits)  # [outputs, vocab], those that follow the last of `ids`

    Args:
        session: What computes the tokens. It may hold the beginning of the prompt already, except for its last token.
        prompt: Token ids, at least one.
        sampler: Draws tokens.
        stop_ids: Tokens that end the sequence.
        max_new_tokens: Most tokens to draw.
        timings: Filled in as tokens come.
        started: When the stage began (`time.perf_counter`), now by default.
        lookup: Proposes tokens, so that one pass may bring several; the tokens are the same with and without.
        forcing: Writes the results of computations. Its tokens count towards `max_new_tokens`.
        confidence: Hears of every token that is drawn, the one that ends the text included.

    Attributes:
        texts: How many texts share the passes.
    """

    def __init__(
        self,
        session: Session,
        prompt: Sequence[int],
        sampler: Sampler,
        stop_ids: frozenset[int],
        max_new_tokens: int,
        timings: StageTimings | None = None,
        started: float | None = None,
        lookup: PromptLookup | None = None,
        forcing: ResultForcing | None = None,
        confidence: Confidence | None = None,
    ) -> None:
        self.session = session
        self.texts = 1
        self.done = False
        self.timings = timings if timings is not None else StageTimings()
        self.timings.prompt_tokens, self.timings.cached_tokens = len(prompt), session.length
        self._begin = time.perf_counter()
        self._started = started if started is not None else self._begin
        self._first: float | None = None
        self._sampler = sampler
        self._stop_ids = stop_ids
        self._left = max_new_tokens
        self._lookup = lookup
        self._forcing = forcing
        self._confidence = confidence
        self._pending = list(prompt[session.length :])
        self._proposed: list[int] = []
        self._computing = 0

    @property
    def prefilling(self) -> bool:
        """Whether tokens of the prompt are still to be computed."""
        return self._first is None

    @property
    def pending(self) -> int:
        """How many tokens are to be computed next: what is left of the prompt, or was drawn, forced and proposed."""
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
        """Draw from the logits of `step`'s ids; returns the tokens that the sequence goes on with, no stop token."""
        self._pending = self._pending[self._computing :]
        if self._pending:  # the prompt goes on, or what was forced
            return []
        if self.prefilling:
            self.timings.prefill_s = time.perf_counter() - self._begin
        tokens, kept = self._draw(logits)
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

    def _draw(self, logits: Floats) -> tuple[list[int], int]:
        """One token, and one more for as long as the proposed ones are those that are drawn; then what is forced.

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
        """The token that is drawn, with those that are forced by it."""
        token = self._sampler.draw(logits)
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
            proposed = self._lookup.propose(min(self._left - 1, rows), self.texts) if rows > 0 else []
            # A stop token has no row after it that anybody could need.
            self._proposed = list(takewhile(lambda token: token not in self._stop_ids, proposed))
        self._pending = [*tokens[kept:], *self._proposed]

    def _give_up(self, count: int) -> None:
        """Compute so many of the proposed tokens not, the last ones."""
        if count:
            del self._proposed[-count:], self._pending[-count:]

    def _count(self, drawn: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first, self.timings.ttft_s = now, now - self._started
        self._left -= drawn
        self.timings.new_tokens += drawn
        self.timings.decode_s = now - self._first


def decode_ids(
    session: Session,
    prompt: Sequence[int],
    sampler: Sampler,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    timings: StageTimings | None = None,
    started: float | None = None,
    lookup: PromptLookup | None = None,
    forcing: ResultForcing | None = None,
    confidence: Confidence | None = None,
) -> Iterator[int]:
    """Feed `prompt` to the session and yield the tokens that follow, up to and without a stop token.

    The arguments are those of `Decoding`.
    """
    decoding = Decoding(
        session, prompt, sampler, stop_ids, max_new_tokens, timings, started, lookup, forcing, confidence
    )
    while not decoding.done:
        ids, outputs = decoding.step()
        yield from decoding.take(session.advance(ids, every=outputs > 1))


def decode_text(ids: Iterator[int], stream: TextPieces, stop_strings: Sequence[str] = ()) -> Iterator[str]:
    """Turn a stream of ids into pieces of text of whole characters, ending before a stop string."""
    stops = StopStrings(stop_strings)
    for token in ids:
        shown = stops.push(stream.push(token))
        if shown:
            yield shown
        if stops.hit:
            return
    rest = stops.rest()
    if rest:
        yield rest
