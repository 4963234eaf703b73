"""One decoding loop for every engine: sampling, stop tokens, stop strings, streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

import numpy as np
import numpy.typing as npt

import edgereason.kernels.cpu as cpu
from edgereason.confidence import Confidence
from edgereason.engines.base import Session
from edgereason.errors import UsageError
from edgereason.result_forcing import ResultForcing
from edgereason.speculation import MOST_ROWS, PromptLookup
from edgereason.tokenizer import TextPieces

Floats = npt.NDArray[np.float32]

_CANDIDATES = 256
"""Tokens among which the cuts are looked for at first."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most probable token (greedy); larger values flatten the distribution.
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probabilities add up to p (Holtzman et al., arXiv 1904.09751).
        min_p: Keep tokens at least min_p times as probable as the best one (Nguyen et al., arXiv 2407.01082).
        repetition_penalty: Divide the positive, multiply the negative logits of tokens seen before
            (Keskar et al., arXiv 1909.05858); 1 leaves them.
        seed: Makes sampling repeatable; None draws a new seed each time.

    Raises:
        UsageError: a value is outside of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        ranges = {
            "temperature": 0 <= self.temperature < float("inf"),
            "top-k": self.top_k >= 0,
            "top-p": 0 < self.top_p <= 1,
            "min-p": 0 <= self.min_p <= 1,
            "repetition-penalty": 0 < self.repetition_penalty < float("inf"),
            "seed": self.seed is None or self.seed >= 0,
        }
        for name, fits in ranges.items():
            if not fits:
                value = getattr(self, name.replace("-", "_"))
                raise UsageError(f"{name} is {value}, which is outside of its range.", _RANGES[name])


_RANGES = {
    "temperature": "Give 0 for greedy decoding, or a positive number.",
    "top-k": "Give 0 to keep all tokens, or how many to keep.",
    "top-p": "Give a number above 0 and at most 1.",
    "min-p": "Give a number from 0 to 1.",
    "repetition-penalty": "Give a positive number; 1 leaves repetition alone.",
    "seed": "Give 0 or a positive integer.",
}


class Sampler:
    """Draws tokens as `Sampling` says; keeps the random state and the tokens seen."""

    def __init__(self, sampling: Sampling, seen: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._seen = set(seen)

    @cached_property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self._sampling.seed)

    def draw(self, logits: Floats) -> int:
        """Choose the next token from `logits` `[vocab]`."""
        token = self._choose(self._penalized(logits))
        self._seen.add(token)
        return token

    def see(self, tokens: Sequence[int]) -> None:
        """Count tokens that were not drawn as seen."""
        self._seen.update(tokens)

    def _penalized(self, logits: Floats) -> Floats:
        penalty = self._sampling.repetition_penalty
        if penalty == 1.0 or not self._seen:
            return logits
        seen = np.fromiter(self._seen, dtype=np.int64)
        logits = logits.copy()
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / penalty, values * penalty)
        return logits

    def _choose(self, logits: Floats) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        s, number = self._sampling, self._random.random()
        if s.top_k == 0 and s.top_p == 1 and s.min_p == 0:
            # Of all tokens in their order, the one in whose share of 1 the number falls: the last before it is reached.
            return int(_nucleus(logits, s, number)[0][-1])
        tokens, probabilities = distribution(logits, s)
        shares = np.cumsum(probabilities)
        return int(tokens[np.searchsorted(shares, number * shares[-1], side="right")])


def distribution(logits: Floats, sampling: Sampling) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn and their probabilities, most probable first.

    The order of the cuts is temperature, top-k, top-p, min-p; each works on what the one before has left. At least one
    token always remains.
    """
    tokens, weights = _nucleus(logits, sampling, sampling.top_p)
    return tokens, weights / weights.sum()


def _nucleus(logits: Floats, sampling: Sampling, top_p: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that the cuts leave, most probable first, and their probabilities relative to the first one's.

    All cuts leave a beginning of the sorted vocabulary. It is looked for among the most probable tokens, and among
    more of them for as long as the cuts have left them all: the whole vocabulary is hardly ever sorted.
    """
    most = min(sampling.top_k or len(logits), len(logits))
    count = most if sampling.top_k else min(most, _CANDIDATES)
    mass = 0.0
    while True:
        tokens = cpu.top(logits, count)
        scores = logits[tokens].astype(np.float64)
        weights = np.exp((scores - scores[0]) / sampling.temperature)
        keep = weights >= sampling.min_p
        if top_p < 1:  # a token stays while the ones before it have not yet reached p
            if mass == 0:
                mass = weights.sum() if sampling.top_k else cpu.softmax_mass(logits, scores[0], sampling.temperature)
            keep &= np.cumsum(weights) - weights < top_p * mass
        keep[0] = True
        if count == most or not keep[-1]:
            return tokens[keep], weights[keep]
        count = min(most, 16 * count)


class StopStrings:
    """Ends a stream of text before the first of some strings, holding back what might become one of them."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take more text; returns what can be shown of it."""
        self._held += text
        found = [at for at in (self._held.find(string) for string in self._strings) if at >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(string) for string in self._strings), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def rest(self) -> str:
        """What was held back and did not become a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins `string`."""
        longest = min(len(string) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(string[:n])), 0)


@dataclass
class StageTimings:
    """Where one stage's time went; counts in tokens, durations in seconds.

    Attributes:
        prompt_tokens: Tokens of the rendered prompt.
        known_tokens: Those of them whose keys and values were there already when the stage began.
        prefill_s: From the prompt's tokens to the logits after them.
        ttft_s: From the beginning of the stage (rendering and tokenizing included) to its first token.
        new_tokens: Tokens generated, the end token included.
        decode_s: From the first token to the last.
    """

    prompt_tokens: int = 0
    known_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    new_tokens: int = 0
    decode_s: float = 0.0


class Decoding:
    """One sequence on its way: which tokens to compute next, and which ones their logits add.

    The loop around it may drive one sequence (`decode_ids`) or several in common passes (`edgereason.batch`):

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
        self.timings.prompt_tokens, self.timings.known_tokens = len(prompt), session.length
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
