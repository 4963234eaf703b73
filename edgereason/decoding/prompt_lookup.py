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


class Acceptance:
    """How often the next token of a match is right, by the match's length: what texts of a kind have shown so far.

    Texts that are under way at the same time may share one, in several threads too: it decides what is proposed, not
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
        row_cost: What one more row adds to the cost of a pass, as a share of a pass of one row. A token is proposed
            while it is at least this probable to be kept; from 1 on nothing is.
        acceptance: What earlier texts have shown; nothing is known when None.
    """

    def __init__(self, ids: Sequence[int], row_cost: float = 0.1, acceptance: Acceptance | None = None) -> None:
        self._ids: list[int] = []
        self._row_cost = min(max(row_cost, 0.001), 1.0)
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

    def propose(self, most: int = MOST_ROWS - 1, texts: int = 1) -> list[int]:
        """Up to `most` tokens that may come next; none where nothing matches, or matches have been wrong too often.

        Args:
            most: At least 0.
            texts: How many texts share the pass. The more they are, the less of a pass does a token that is kept save.
        """
        text = self._ids
        for n in range(min(_LONGEST, len(text)), 0, -1):
            start = self._after.get(tuple(text[-n:]))
            if start is not None:
                self._matched = n
                return text[start : start + min(most, self._acceptance.length(n, self._cost(texts)))]
        return []

    def learn(self, proposed: int, kept: int) -> None:
        """Hear how many of the tokens proposed last were the right ones."""
        self._acceptance.learn(self._matched, proposed, kept)

    def _cost(self, texts: int) -> float:
        """Of a row, as a share of what a pass of one row for each text costs a text."""
        return min(1.0, texts * self._row_cost / (1 + (texts - 1) * self._row_cost))
