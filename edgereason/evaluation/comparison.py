"""Two ways to answer the same problems, compared problem by problem.

Where both ways face the same problems, what they share says nothing about which is better. McNemar's test
(Psychometrika 12, 1947) looks at the problems that exactly one of them answers right: if neither is better, each is as
likely to be that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import UsageError
from edgereason.evaluation.accuracy import Row
from edgereason.evaluation.bootstrap import Bootstrapped


@dataclass(frozen=True)
class Comparison(Bootstrapped):
    """One way beside another.

    Attributes:
        only_this: Problems that this way answers right, and the other does not.
        only_other: Problems that the other way answers right, and this one does not.
        total: All problems.
        other: What the other way is called.
    """

    only_this: int
    only_other: int
    total: int
    other: str = ""

    @property
    def difference(self) -> float:
        """This way's accuracy less the other's, as a share of 1."""
        return (self.only_this - self.only_other) / self.total

    @property
    def p(self) -> float:
        """The exact two-sided probability of a difference at least as large, if neither way were better."""
        discordant, fewer = self.only_this + self.only_other, min(self.only_this, self.only_other)
        # In integers, since 2 to the power of so many problems is beyond a double; C(n, k + 1) follows from C(n, k).
        ways = tail = 1
        for count in range(fewer):
            ways = ways * (discordant - count) // (count + 1)
            tail += ways
        return min(1.0, float(Fraction(2 * tail, 2**discordant)))

    def resampled(self, rng: np.random.Generator, times: int) -> npt.NDArray[np.float64]:
        """Differences of problems resampled with both ways' outcomes: paired, unlike the two accuracies' intervals."""
        same = self.total - self.only_this - self.only_other
        shares = np.array([self.only_this, self.only_other, same]) / self.total
        samples = rng.multinomial(self.total, shares, times)
        differences: npt.NDArray[np.float64] = (samples[:, 0] - samples[:, 1]) / self.total
        return differences

    def to_json(self) -> dict[str, Any]:
        names = ("other", "difference", "low", "high", "p", "only_this", "only_other", "total")
        return {name: getattr(self, name) for name in names}


def compare(these: Sequence[Row], others: Sequence[Row], other: str = "") -> Comparison:
    """Compare two ways' rows of the same problems in the same order.

    Args:
        these: Of this way.
        others: Of the other one.
        other: What that is called.

    Raises:
        UsageError: they are other problems, or there are none.
    """
    if not these or [_problem(row) for row in these] != [_problem(row) for row in others]:
        raise UsageError(
            f"{len(these)} problems here and {len(others)} in {other or 'the other way'} are not the same ones.",
            "Evaluate both on the same --data with the same --limit.",
        )
    pairs = [*zip(these, others, strict=True)]
    only_this = sum(this.correct and not beside.correct for this, beside in pairs)
    only_other = sum(beside.correct and not this.correct for this, beside in pairs)
    return Comparison(only_this, only_other, len(pairs), other)


def _problem(row: Row) -> tuple[str, str]:
    return row.question, row.expected
