"""Transcripts, the share of right ones among them, and how sure that figure is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import UsageError
from edgereason.evaluation.bootstrap import Bootstrapped

_OPTIONAL = ("structure", "error")


@dataclass(frozen=True)
class Row:
    """One problem's transcript.

    Attributes:
        question: As it was asked, with its choices.
        guidance: The guidance model's text; empty where it was not asked.
        answer: The answer model's text; empty where it was not asked.
        final: What the last text gives as result; None where it gives none.
        expected: The right result; of code the program that has to pass.
        correct: Whether they are the same.
        structure: What group of problems it belongs to; empty for none.
        error: Why there is no text: the question does not fit the model's context, say. Such a row is not correct.
    """

    question: str
    guidance: str
    answer: str
    final: str | None
    expected: str
    correct: bool
    structure: str = ""
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields; `structure` and `error` only where there is one."""
        return {name: value for name, value in vars(self).items() if value or name not in _OPTIONAL}

    @classmethod
    def from_json(cls, value: object, where: str) -> Row:
        """Read a row; `where` names its file in the error of one that is not a row.

        Raises:
            UsageError: a field is missing, unknown or of another type.
        """
        try:
            row = cls(**value) if isinstance(value, dict) else None
        except TypeError:
            row = None
        if row is None or not isinstance(row.correct, bool) or not isinstance(row.question, str):
            raise UsageError(
                f"{where} is not a row of an evaluation report.", "Give a file that `edgereason eval --json` wrote."
            )
        return row


@dataclass(frozen=True)
class Accuracy(Bootstrapped):
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

    def resampled(self, rng: np.random.Generator, times: int) -> npt.NDArray[np.float64]:
        """Accuracies of resampled rows: how many of them are right is binomial."""
        accuracies: npt.NDArray[np.float64] = rng.binomial(self.total, self.accuracy, times) / max(self.total, 1)
        return accuracies

    def by_structure(self) -> dict[str, Accuracy]:
        """The same for each group of problems, in the order of their first rows; rows of no group are left out."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.structure:
                groups.setdefault(row.structure, []).append(row)
        return {name: Accuracy(tuple(rows)) for name, rows in groups.items()}

    def figures(self) -> dict[str, Any]:
        """`accuracy`, `low` and `high` as shares of 1, and the counts `correct` and `total`."""
        return {name: getattr(self, name) for name in ("accuracy", "low", "high", "correct", "total")}
