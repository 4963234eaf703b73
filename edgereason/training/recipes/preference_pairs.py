"""Preference pairs: of two attempts at the same question, which one the model shall rather write."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from edgereason.training.sampling.attempts import Attempt, by_question


@dataclass(frozen=True)
class Pair:
    """Two attempts at a question, both ended by the model.

    Attributes:
        question: Its place among the questions.
        chosen: The better answer's text.
        rejected: The other one's.
    """

    question: int
    chosen: str
    rejected: str


def pairs_by_result(attempts: Sequence[Attempt], most: int, seed: int) -> list[Pair]:
    """Right attempts before wrong ones: of each question up to `most` pairs, chosen by `seed`."""
    rng = random.Random(f"{seed}/pairs")
    found = []
    for number, tries in by_question(attempts).items():
        right, wrong = ([each for each in tries if each.ended and each.right is wanted] for wanted in (True, False))
        couples = list(product(right, wrong))
        for better, worse in rng.sample(couples, min(most, len(couples))):
            found.append(Pair(number, better.text, worse.text))
    return found


def pairs_by_process(attempts: Sequence[Attempt], most: int, margin: float) -> list[Pair]:
    """The best attempts before the worst ones, of each question up to `most` pairs of different ones.

    Right attempts are better than wrong ones, and among each the higher score is better. A right attempt is chosen
    before a wrong one, or before a right one whose score is lower by `margin` or more: one that came to its result by
    bad steps.

    Args:
        attempts: With scores.
    """
    found = []
    for number, tries in by_question(attempts).items():
        ranked = sorted((each for each in tries if each.ended), key=_rank, reverse=True)
        half = len(ranked) // 2
        for better, worse in zip(ranked[: min(most, half)], ranked[::-1], strict=False):
            if better.right and (not worse.right or _score(better) - _score(worse) >= margin):
                found.append(Pair(number, better.text, worse.text))
    return found


def _rank(attempt: Attempt) -> tuple[bool, float]:
    return attempt.right, _score(attempt)


def _score(attempt: Attempt) -> float:
    assert attempt.score is not None, "pairs by process need scores"
    return attempt.score
