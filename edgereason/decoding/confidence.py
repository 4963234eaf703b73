"""How sure a model is of what it writes: the mean log-probability of its tokens.

A model that has learned what its guidance has to say of a question is nearly certain of every token. Of a question
unlike those of its training it writes guidance too, and is less certain. It costs next to nothing: the logits are
there (docs/confidence.md compares it with other signals).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


class Confidence:
    """Collects the log-probabilities of a text's tokens, by the model alone: at temperature 1 and without cuts."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, logits: npt.NDArray[np.float32], token: int) -> None:
        """Take a token that was sampled from `logits` `[vocab]`."""
        highest = logits.max()
        self._sum += float(logits[token] - highest) - math.log(np.exp(logits - highest).sum())
        self._count += 1

    @property
    def value(self) -> float | None:
        """The geometric mean of the tokens' probabilities, from 0 to 1; None of no tokens."""
        return math.exp(self._sum / self._count) if self._count else None
