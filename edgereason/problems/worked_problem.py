"""A problem with its true guidance and worked answer, as the generators make it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class WorkedProblem:
    """A question with its true guidance, answer and result.

    Attributes:
        question: One line.
        guidance: Three lines, "Asked: ...", "Given: ...", "Steps: ..."; its numbers are the question's.
        answer: A line for each step with its computation, then "#### result".
        result: What the answer ends with.
        structure: The name of what it was made from.
    """

    question: str
    guidance: str
    answer: str
    result: str
    structure: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def question_key(question: str) -> str:
    """What two questions have in common that differ in case, spaces or punctuation only."""
    return " ".join(re.findall(r"\w+", question.lower()))


def sample_new(
    rng: random.Random, exclude: Collection[str], sample: Callable[[random.Random], WorkedProblem]
) -> WorkedProblem:
    """One problem whose `question_key` is not in `exclude`."""
    problem = sample(rng)
    while question_key(problem.question) in exclude:
        problem = sample(rng)
    return problem
