"""What the default model's base reads: worked problems as a textbook prints them, accounts, computations, sentences."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from edgereason.problems.word_problems.story import LARGEST, LARGEST_GIVEN, sample_accounts, sample_problem
from edgereason.problems.words import NAMES, THINGS
from edgereason.problems.worked_problem import sample_new
from edgereason.text.calculator import evaluate, written
from edgereason.training.default_model.textbook import sentences, set_in_print

_COMPUTATIONS = 8
_MOST_PEOPLE = 6


def sample_text(rng: random.Random, exclude: Collection[str]) -> Sequence[str]:
    """One text, in parts of which every other is to be learned, the second first; see `TextSource`.

    Args:
        exclude: The `question_key` of problems that must not occur.
    """
    kind = rng.random()
    if kind < 0.8:
        return set_in_print(rng, sample_new(rng, exclude, sample_problem))
    if kind < 0.91:
        return sample_accounts(rng) if kind < 0.87 else belongings(rng)
    return "", computations(rng) if kind < 0.96 else sentences(rng)


def belongings(rng: random.Random) -> list[str]:
    """Who has how many of something, and lines that ask for them by name: learning to look up, and nothing else."""
    people, items = rng.sample(NAMES, rng.randint(2, _MOST_PEOPLE)), rng.choice(THINGS)[1]
    counts = {person: _operand(rng, LARGEST_GIVEN) for person in people}
    has = rng.choice(("has", "has", "had", "owns"))
    parts = ["; ".join(f"{person} {has} {count} {items}" for person, count in counts.items()) + ".\n"]
    for person in rng.choices(people, k=len(people) + 2):
        parts[-1] += f"the {items} of {person}:"
        parts += [f" {counts[person]}\n", ""]
    return parts


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
