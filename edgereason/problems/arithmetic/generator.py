"""Arithmetic word problems with solution guidance and worked answers, made from a seed.

A problem is what Solution Guidance Fine-Tuning (arXiv 2412.09906) trains on: the question, a guidance that says what
is asked, what is given and which steps lead to the answer but computes nothing, and the answer, which computes.
Guidance and answer are functions of the question: two problems with the same question have the same guidance and
answer.

Numbers stay where a small model can learn to compute them digit by digit: sums and differences within 1 to 300,
products of a number up to 25 with one up to 12 (and doubling up to 150), divisions that invert those and leave no
remainder.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from edgereason.problems.arithmetic.one_step import ONE_STEP
from edgereason.problems.arithmetic.scenario import COUNT, Range, Structure
from edgereason.problems.arithmetic.two_steps import TWO_STEPS
from edgereason.problems.words import choose, draw_words, fill

STRUCTURES = (*ONE_STEP, *TWO_STEPS)

LARGEST = 300
"""No number in a problem exceeds this."""

_VERBS = {
    "+": ("add {right} to {left}", "sum"),
    "-": ("subtract {right} from {left}", "difference"),
    "*": ("multiply {left} by {right}", "product"),
    "/": ("divide {left} by {right}", "quotient"),
}
_VERBS_BY_TWO = {"*": ("double {left}", "double"), "/": ("halve {left}", "half")}


@dataclass(frozen=True)
class Problem:
    """A question with its true guidance, answer and result.

    Attributes:
        question: One line.
        guidance: Three lines, "Asked: ...", "Given: ...", "Steps: ..."; its numbers are the question's.
        answer: A line "left operator right = result" for each step, then "#### result".
        result: What the answer ends with.
        structure: The name of the structure it was made from.
    """

    question: str
    guidance: str
    answer: str
    result: str
    structure: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def compute(operator: str, left: int, right: int) -> int | None:
    """The result of one step; None where it is not exact or outside the ranges that the problems keep to."""
    small, large = sorted((left, right))
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right if small == 2 or (small <= 12 and large <= 25) else 0
    else:
        result = left // right if left % right == 0 and (right == 2 or (right <= 12 and left <= right * 25)) else 0
    return result if 1 <= result <= LARGEST else None


def draw_number(rng: random.Random, limits: Range = COUNT) -> int:
    """A number within `limits`, smaller ones more often, as in real problems."""
    low, high = limits
    return rng.randint(low, rng.randint(low, high))


def question_key(question: str) -> str:
    """What two questions have in common that differ in case, spaces or punctuation only."""
    return " ".join(re.findall(r"\w+", question.lower()))


def draw_new(
    rng: random.Random, exclude: Collection[str], draw: Callable[[random.Random], Problem] | None = None
) -> Problem:
    """One problem whose `question_key` is not in `exclude`."""
    problem = (draw or draw_problem)(rng)
    while question_key(problem.question) in exclude:
        problem = (draw or draw_problem)(rng)
    return problem


def draw_problem(rng: random.Random, structures: Sequence[Structure] = STRUCTURES) -> Problem:
    """One problem; the state of `rng` determines it."""
    structure = rng.choice(structures)
    numbers, results = _draw_numbers(rng, structure)
    values = {**draw_words(rng), **{slot: str(number) for slot, number in numbers.items()}}
    question = fill(choose(rng, rng.choice(structure.stories)), values)
    operations = [_operands(step, numbers) for step in structure.steps]
    guidance = "\n".join(
        (
            f"Asked: {fill(structure.asked, values)}.",
            f"Given: {fill(structure.given, values)}.",
            f"Steps: {_describe(operations)}.",
        )
    )
    return Problem(question, guidance, _work_out(operations, results), str(results[-1]), structure.name)


def problems(
    seed: int | str,
    exclude: Collection[str] = frozenset(),
    structures: Sequence[Structure] = STRUCTURES,
) -> Iterator[Problem]:
    """An endless stream of problems whose `question_key` is not in `exclude`; repeats are possible."""
    rng = random.Random(seed)
    while True:
        problem = draw_problem(rng, structures)
        if question_key(problem.question) not in exclude:
            yield problem


def held_out(seed: int, count: int = 200) -> list[Problem]:
    """`count` different problems, evenly over the structures, that training excludes."""
    found: dict[str, Problem] = {}
    for index, structure in enumerate(STRUCTURES * (count // len(STRUCTURES) + 1)):
        for problem in problems(f"{seed}/held out/{index}", found, (structure,)):
            found[question_key(problem.question)] = problem
            break
        if len(found) == count:
            break
    return list(found.values())


def _operands(step: str, numbers: Mapping[str, int]) -> tuple[int | str, str, int | str]:
    """A step with the question's numbers in place; an earlier result stays "#k", a literal 2 stays "2"."""
    left, operator, right = step.split()
    return numbers.get(left, left), operator, numbers.get(right, right)


def _value(operand: int | str, results: Sequence[int]) -> int:
    if isinstance(operand, str):
        return results[int(operand[1:]) - 1] if operand.startswith("#") else int(operand)
    return operand


def _draw_numbers(rng: random.Random, structure: Structure) -> tuple[dict[str, int], list[int]]:
    """Numbers for a structure's slots, drawn until every step can be computed, and the results of the steps."""
    slots = sorted({part for step in structure.steps for part in step.split() if part.isalpha()})
    while True:
        numbers = {slot: draw_number(rng, structure.ranges.get(slot, COUNT)) for slot in slots}
        results: list[int] = []
        for left, operator, right in (_operands(step, numbers) for step in structure.steps):
            result = compute(operator, _value(left, results), _value(right, results))
            if result is None:
                break
            results.append(result)
        else:
            return numbers, results


def _describe(operations: Sequence[tuple[int | str, str, int | str]]) -> str:
    """The steps in words; an earlier result is "the sum", or "the first sum" where there are several."""
    nouns: list[str] = []
    sentences: list[str] = []

    def phrase(operand: int | str) -> str:
        if isinstance(operand, int) or not operand.startswith("#"):
            return str(operand)
        index = int(operand[1:]) - 1
        same = [k for k, noun in enumerate(nouns) if noun == nouns[index]]
        rank = ("first ", "second ", "third ", "fourth ")[same.index(index)] if len(same) > 1 else ""
        return f"the {rank}{nouns[index]}"

    for left, operator, right in operations:
        verb, noun = _VERBS_BY_TWO[operator] if right == "2" else _VERBS[operator]
        sentences.append(verb.format(left=phrase(left), right=phrase(right)))
        nouns.append(noun)
    return ", then ".join(sentences)


def _work_out(operations: Sequence[tuple[int | str, str, int | str]], results: Sequence[int]) -> str:
    lines = [
        f"{_value(left, results)} {operator} {_value(right, results)} = {result}"
        for (left, operator, right), result in zip(operations, results, strict=True)
    ]
    return "\n".join((*lines, f"#### {results[-1]}"))
