"""What the default model's base reads: worked problems as a textbook prints them, computations, plain sentences."""

from __future__ import annotations

import random
from collections.abc import Collection

from edgereason.calculator import evaluate, written
from edgereason.training.corpus import sentences, set_in_print
from edgereason.training.problems import draw_new
from edgereason.training.word_problems.story import LARGEST, LARGEST_GIVEN, draw_problem

_COMPUTATIONS = 8


def draw_text(rng: random.Random, exclude: Collection[str]) -> tuple[str, str]:
    """One text: what is only to be read, and what is to be learned.

    Args:
        exclude: The `question_key` of problems that must not occur.
    """
    kind = rng.random()
    if kind < 0.85:
        return set_in_print(rng, draw_new(rng, exclude, draw_problem))
    return "", computations(rng) if kind < 0.93 else sentences(rng)


def computations(rng: random.Random) -> str:
    """Single computations in the problems' ranges, a line each, written as the answers write theirs."""
    return "\n".join(_computation(rng) for _ in range(_COMPUTATIONS))


def _computation(rng: random.Random) -> str:
    while True:
        left, right = _operand(rng, LARGEST_GIVEN), _operand(rng, LARGEST_GIVEN)
        expression = rng.choice((f"{left}+{right}", f"{left}-{right}", f"{left}*{right}", f"{left * right}/{right}"))
        value = evaluate(expression)
        if value is not None and 1 <= value <= LARGEST and left * right <= LARGEST * (("*" in expression) + 1):
            return f"{expression} = <<{expression}={written(value)}>>{written(value)}"


def _operand(rng: random.Random, largest: int) -> int:
    """Small numbers as often as large ones."""
    return rng.randint(1, 10 ** rng.randint(1, len(str(largest)) - 1))
