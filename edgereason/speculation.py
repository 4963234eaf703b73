"""Prompt lookup: words that were written before propose how the text goes on, and one pass checks several tokens.

An answer repeats the words of its question and guidance. Where the last tokens stood in the text before, what
followed them there is proposed (prompt lookup decoding, Saxena 2023); the model computes the logits after every
proposed token in one pass, which costs little more than a pass for one token, because both read all weights once.

The output is that of plain decoding. The decoding loop draws each token from the logits as it always does, with the
same random numbers, and goes through the pass's further rows for as long as what it draws is what was proposed. For a
proposal that is certain of its token this *is* speculative sampling's rule (Leviathan et al., arXiv 2211.17192): the
token x is kept with probability p(x), and otherwise the one drawn comes from p without x, scaled up to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_ROWS = 16
"""Rows of a pass for one sequence: the token drawn last, and those proposed."""

_LONGEST = 4
_PRIOR = (0.0, 0.25, 0.45, 0.65, 0.8)  # by the length of the match: how often its next token is right
_LEARNING_RATE = 0.15
_FORGETTING_RATE = 0.005
_SURE = 0.98


class PromptLookup:
    """Proposes how a text of token ids goes on, from what followed its last tokens before.

    Args:
        ids: The text so far: a prompt.
        row_cost: What one more row adds to the cost of a pass, as a share of a pass of one row. A token is proposed
            while it is at least this probable to be kept; from 1 on nothing is.
    """

    def __init__(self, ids: Sequence[int], row_cost: float = 0.1) -> None:
        self._ids: list[int] = []
        self._row_cost = min(max(row_cost, 0.001), 1.0)
        # n-gram -> where the token stands that followed it last. An n-gram enters when its next token is known, so that
        # the text's end does not find itself.
        self._after: dict[tuple[int, ...], int] = {}
        self._rates = list(_PRIOR)
        self._matched = 0
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Take tokens that the text goes on with."""
        text, after = self._ids, self._after
        for token in ids:
            end = len(text)
            for n in range(1, min(_LONGEST, end) + 1):
                after[tuple(text[end - n :])] = end
            text.append(token)

    def propose(self, most: int = MOST_ROWS - 1) -> list[int]:
        """Up to `most` tokens that may come next; none where nothing matches, or matches have been wrong too often."""
        text = self._ids
        for n in range(min(_LONGEST, len(text)), 0, -1):
            start = self._after.get(tuple(text[-n:]))
            if start is not None:
                self._matched = n
                count = min(most, self._length(n))
                if count == 0:  # what went wrong long ago may be tried again
                    self._rates[n] += _FORGETTING_RATE * (_PRIOR[n] - self._rates[n])
                return text[start : start + count]
        return []

    def learn(self, proposed: int, kept: int) -> None:
        """Hear how many of the tokens proposed last were the right ones."""
        for right in [True] * kept + [False] * (kept < proposed):
            self._rates[self._matched] += _LEARNING_RATE * (right - self._rates[self._matched])

    def _length(self, n: int) -> int:
        """How many tokens to propose: the k-th is kept with probability rate^k, which has to be worth its row."""
        rate = min(self._rates[n], _SURE)
        return 0 if rate < self._row_cost else math.floor(math.log(self._row_cost) / math.log(rate))
