"""Asking problems, comparing results, and how sure the figure is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgereason.batching import DEFAULT_SIZE
from edgereason.evaluation.extraction import extract
from edgereason.evaluation.problems import Problem
from edgereason.pipeline import Reasoner
from edgereason.prompts import comparable

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """One problem's transcript."""

    question: str
    guidance: str
    answer: str
    final: str | None
    expected: str
    correct: bool


@dataclass(frozen=True)
class Accuracy:
    """Right answers among all, with every transcript."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        return len(self.rows)

    @property
    def correct(self) -> int:
        return sum(row.correct for row in self.rows)

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.rows else 0.0

    @property
    def low(self) -> float:
        """Lower end of the 95% bootstrap interval of the accuracy."""
        return self._quantile(0.025)

    @property
    def high(self) -> float:
        """Upper end of the 95% bootstrap interval of the accuracy."""
        return self._quantile(0.975)

    def _quantile(self, q: float) -> float:
        # Resampling right/wrong rows with replacement draws from a binomial distribution (Efron's bootstrap).
        draws = np.random.default_rng(0).binomial(self.total, self.accuracy, _RESAMPLES) / max(self.total, 1)
        return float(np.quantile(draws, q))

    def to_json(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("accuracy", "low", "high", "correct", "total")}
        return {**figures, "rows": [asdict(row) for row in self.rows]}


def measure(
    reasoner: Reasoner, problems: Iterable[Problem], *, guidance: bool = True, size: int = DEFAULT_SIZE
) -> Accuracy:
    """Ask every problem, greedily and up to `size` at once, and compare the final results.

    Raises:
        ContextError: a problem is longer than a stage's context.
    """
    asked: deque[Problem] = deque()

    def texts() -> Iterator[str]:
        for problem in problems:
            asked.append(problem)
            yield problem.text

    rows = []
    with closing(reasoner.batch(texts(), size=size, guidance=guidance, temperature=0.0)) as outcomes:
        for outcome in outcomes:
            problem = asked.popleft()
            if outcome.result is None:
                raise outcome.error or AssertionError("an outcome has a result or an error")
            result = outcome.result
            final = extract(problem, result.answer)
            correct = final is not None and same_result(final, problem.expected)
            rows.append(Row(problem.question, result.guidance, result.answer, final, problem.expected, correct))
    return Accuracy(tuple(rows))


def same_result(found: str, expected: str) -> bool:
    """Whether two results are the same number, whatever their currency sign, commas and zeros; or the same text."""
    return comparable(found) == comparable(expected)
