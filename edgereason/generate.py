"""One decoding loop for every engine: sampling, stop tokens, stop strings, streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgereason.engines.base import Session
from edgereason.errors import UsageError
from edgereason.tokenizer import TextStream

Floats = npt.NDArray[np.float32]


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
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(seen)

    def draw(self, logits: Floats) -> int:
        """Choose the next token from `logits` `[vocab]`."""
        token = self._choose(self._penalized(logits))
        self._seen.add(token)
        return token

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
            return int(np.argmax(logits))
        tokens, probabilities = distribution(logits, self._sampling)
        return int(self._random.choice(tokens, p=probabilities))


def distribution(logits: Floats, sampling: Sampling) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that may be drawn and their probabilities, most probable first.

    The order of the cuts is temperature, top-k, top-p, min-p; each works on what the one before has left. At least one
    token always remains.
    """
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled[0])
    probabilities /= probabilities.sum()
    keep = probabilities >= sampling.min_p * probabilities[0]
    if sampling.top_p < 1:  # a token stays while the ones before it have not yet reached p
        keep &= np.cumsum(probabilities) - probabilities < sampling.top_p
    keep[0] = True
    kept = probabilities[keep]
    return order[keep], kept / kept.sum()


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
        prefill_s: From the prompt's tokens to the logits after them.
        ttft_s: From the beginning of the stage (rendering and tokenizing included) to its first token.
        new_tokens: Tokens generated, the end token included.
        decode_s: From the first token to the last.
    """

    prompt_tokens: int = 0
    prefill_s: float = 0.0
    ttft_s: float = 0.0
    new_tokens: int = 0
    decode_s: float = 0.0


def decode_ids(
    session: Session,
    prompt: Sequence[int],
    sampler: Sampler,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    timings: StageTimings | None = None,
    started: float | None = None,
) -> Iterator[int]:
    """Feed `prompt` to the session and yield the tokens that follow, up to and without a stop token.

    `timings` is filled in as tokens come; `started` is when the stage began (`time.perf_counter`), now by default.
    """
    timings = timings if timings is not None else StageTimings()
    begin = time.perf_counter()
    started = started if started is not None else begin
    timings.prompt_tokens = len(prompt)
    logits = session.advance(prompt)
    timings.prefill_s = time.perf_counter() - begin
    first: float | None = None
    for count in range(1, max_new_tokens + 1):
        token = sampler.draw(logits[-1])
        now = time.perf_counter()
        if first is None:
            first, timings.ttft_s = now, now - started
        timings.new_tokens, timings.decode_s = count, now - first
        if token in stop_ids:
            return
        yield token
        if count < max_new_tokens:
            logits = session.advance([token])


def decode_text(ids: Iterator[int], stream: TextStream, stop_strings: Sequence[str] = ()) -> Iterator[str]:
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
