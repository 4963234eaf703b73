"""Prompt lookup: earlier words propose how the text goes on, and one forward pass checks several tokens.

An answer repeats the words of its question and guidance. Where the last tokens stood in the text before, what
followed them there is proposed (prompt lookup decoding, Saxena 2023); the model computes the logits after every
proposed token in one forward pass, which costs little more than one for a single token: both read all weights once.

The output is that of plain decoding. The decoding loop samples each token from the logits as it always does, with the
same random numbers, and goes through the further rows for as long as the sampled token is the proposed one. For a
proposal that is certain of its token this *is* speculative sampling's rule (Leviathan et al., arXiv 2211.17192): the
token x is kept with probability p(x), and otherwise the sampled one comes from p without x, scaled up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_ROWS = 16
"""Rows of a forward pass for one sequence: the token sampled last, and those proposed."""

_LONGEST = 4
_PRIOR = (0.0, 0.25, 0.45, 0.65, 0.8)  # by the length of the match: how often its next token is right
_LEARNING_RATE = 0.15
_FORGETTING_RATE = 0.005
_SURE = 0.98


class Acceptance:
    """How often the next token of a match is right, by the match's length: as earlier texts have shown.

    Sequences of one batch may share one, in several threads too: it decides what is proposed, not
    what is written.
    """

    def __init__(self) -> None:
        self._rates = list(_PRIOR)

    def learn(self, n: int, proposed: int, kept: int) -> None:
        """Hear how many of the tokens proposed after a match of n tokens were the right ones."""
        for right in [True] * kept + [False] * (kept < proposed):
            self._rates[n] += _LEARNING_RATE * (right - self._rates[n])

    def length(self, n: int, cost: float) -> int:
        """How many tokens to propose: the k-th is kept with probability rate^k, which has to be worth its row."""
        rate = min(self._rates[n], _SURE)
        if rate >= cost:
            return math.floor(math.log(cost) / math.log(rate))
        self._rates[n] += _FORGETTING_RATE * (_PRIOR[n] - self._rates[n])  # what went wrong long ago may be tried again
        return 0


class PromptLookup:
    """Proposes how a text of token ids goes on, from what followed its last tokens before.

    Args:
        ids: The text so far: a prompt.
        token_cost: Cost of one more token in a forward pass, as a share of a forward pass of one token. A token is
            proposed while it is at least this probable to be kept; from 1 on nothing is.
        acceptance: How often earlier texts kept what was proposed; a prior when None.
    """

    def __init__(self, ids: Sequence[int], token_cost: float = 0.1, acceptance: Acceptance | None = None) -> None:
        self._ids: list[int] = []
        self._token_cost = min(max(token_cost, 0.001), 1.0)
        # n-gram -> where the token stands that followed it last. An n-gram enters when its next token is known, so that
        # the text's end does not find itself.
        self._after: dict[tuple[int, ...], int] = {}
        self._acceptance = acceptance or Acceptance()
        self._matched = 0
        for n in range(1, _LONGEST + 1):
            self._after.update(
                zip(zip(*(ids[start:] for start in range(n)), strict=False), range(n, len(ids)), strict=False)
            )
        self._ids += ids

    def extend(self, ids: Sequence[int]) -> None:
        """Take tokens that the text goes on with."""
        text, after = self._ids, self._after
        for token in ids:
            end = len(text)
            for n in range(1, min(_LONGEST, end) + 1):
                after[tuple(text[end - n :])] = end
            text.append(token)

    def propose(self, most: int = MOST_ROWS - 1, batch_size: int = 1) -> list[int]:
        """Up to `most` tokens that may come next; none where nothing matches, or matches have been wrong too often.

        Args:
            most: At least 0.
            batch_size: How many sequences share the forward pass. The more they are, the smaller the share of a forward
                pass that an accepted token saves.
        """
        text = self._ids
        for n in range(min(_LONGEST, len(text)), 0, -1):
            start = self._after.get(tuple(text[-n:]))
            if start is not None:
                self._matched = n
                return text[start : start + min(most, self._acceptance.length(n, self._cost(batch_size)))]
        return []

    def learn(self, proposed: int, kept: int) -> None:
        """Hear how many of the tokens proposed last were the right ones."""
        self._acceptance.learn(self._matched, proposed, kept)

    def _cost(self, batch_size: int) -> float:
        """The cost of a row, as a share of what a forward pass of one row per sequence costs each sequence."""
        return min(1.0, batch_size * self._token_cost / (1 + (batch_size - 1) * self._token_cost))
