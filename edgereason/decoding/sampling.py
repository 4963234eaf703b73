"""Sampling: which token comes next, given logits and a `Sampling` (`edgereason.bundle`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

import edgereason.kernels.cpu as cpu
from edgereason.bundle import Sampling

Floats = npt.NDArray[np.float32]

_CANDIDATES = 256
"""How many of the most probable tokens the truncations (top-k, top-p, min-p) look at first."""


class Sampler:
    """Samples tokens as `Sampling` says; keeps the random state and the tokens seen."""

    def __init__(self, sampling: Sampling, seen: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._seen = set(seen)

    @cached_property
    def _random(self) -> np.random.Generator:
        return np.random.default_rng(self._sampling.seed)

    def sample(self, logits: Floats) -> int:
        """The next token, given `logits` float32 `[vocab]`."""
        token = self._choose(self._penalized(logits))
        self._seen.add(token)
        return token

    def see(self, tokens: Sequence[int]) -> None:
        """Count tokens that were not sampled here as seen."""
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
    """The tokens that may be sampled and their probabilities, most probable first.

    The order is temperature, top-k, top-p, min-p; each works on what the one before has left. At least one
    token always remains.
    """
    tokens, weights = _nucleus(logits, sampling, sampling.top_p)
    return tokens, weights / weights.sum()


def _nucleus(logits: Floats, sampling: Sampling, top_p: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that the truncations leave, most probable first, and their probabilities relative to the first one's.

    Every truncation leaves a beginning of the sorted vocabulary. It is looked for among the most probable tokens, and
    among more of them for as long as all of those are left: the whole vocabulary is hardly ever sorted.
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
