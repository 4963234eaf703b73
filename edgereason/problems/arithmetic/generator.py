"""Arithmetic word problems with solution guidance and worked answers, made from a seed.

A problem is what Solution Guidance Fine-Tuning (arXiv 2412.09906) trains on: the question, guidance that says what
is asked, what is given and which steps lead to the answer but computes nothing, and the answer, which computes.
Guidance and answer are functions of the question: two problems with the same question have the same guidance and
answer.

Numbers stay where a small model can learn to compute them digit by digit: sums and differences within 1 to 300,
products of a number up to 25 with one up to 12 (and doubling up to 150), divisions that invert those and leave no
remainder.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence

from edgereason.problems.arithmetic.one_step import ONE_STEP
from edgereason.problems.arithmetic.scenario import COUNT, Range, Scenario
from edgereason.problems.arithmetic.two_steps import TWO_STEPS
from edgereason.problems.words import choose, fill, sample_words
from edgereason.problems.worked_problem import WorkedProblem, question_key

SCENARIOS = (*ONE_STEP, *TWO_STEPS)

LARGEST = 300
"""No number in a problem exceeds this."""

_VERBS = {
    "+": ("add {right} to {left}", "sum"),
    "-": ("subtract {right} from {left}", "difference"),
    "*": ("multiply {left} by {right}", "product"),
    "/": ("divide {left} by {right}", "quotient"),
}
_VERBS_BY_TWO = {"*": ("double {left}", "double"), "/": ("halve {left}", "half")}


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


def sample_number(rng: random.Random, limits: Range = COUNT) -> int:
    """A number within `limits`, smaller ones more often, as in real problems."""
    low, high = limits
    return rng.randint(low, rng.randint(low, high))


def sample_arithmetic(rng: random.Random, scenarios: Sequence[Scenario] = SCENARIOS) -> WorkedProblem:
    """One problem; the state of `rng` determines it."""
    scenario = rng.choice(scenarios)
    numbers, results = _sample_numbers(rng, scenario)
    values = {**sample_words(rng), **{slot: str(number) for slot, number in numbers.items()}}
    question = fill(choose(rng, rng.choice(scenario.stories)), values)
    operations = [_operands(step, numbers) for step in scenario.steps]
    guidance = "\n".join(
        (
            f"Asked: {fill(scenario.asked, values)}.",
            f"Given: {fill(scenario.given, values)}.",
            f"Steps: {_describe(operations)}.",
        )
    )
    return WorkedProblem(question, guidance, _work_out(operations, results), str(results[-1]), scenario.name)


def arithmetic_problems(
    seed: int | str,
    exclude: Collection[str] = frozenset(),
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> Iterator[WorkedProblem]:
    """An endless stream of problems whose `question_key` is not in `exclude`; repeats are possible."""
    rng = random.Random(seed)
    while True:
        problem = sample_arithmetic(rng, scenarios)
        if question_key(problem.question) not in exclude:
            yield problem


def held_out_arithmetic(seed: int, count: int = 200) -> list[WorkedProblem]:
    """`count` different problems, evenly over the scenarios, that training excludes."""
    found: dict[str, WorkedProblem] = {}
    for index, scenario in enumerate(SCENARIOS * (count // len(SCENARIOS) + 1)):
        for problem in arithmetic_problems(f"{seed}/held out/{index}", found, (scenario,)):
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


def _sample_numbers(rng: random.Random, scenario: Scenario) -> tuple[dict[str, int], list[int]]:
    """Numbers for a scenario's slots, sampled until every step can be computed, and the results of the steps."""
    slots = sorted({part for step in scenario.steps for part in step.split() if part.isalpha()})
    while True:
        numbers = {slot: sample_number(rng, scenario.ranges.get(slot, COUNT)) for slot in slots}
        results: list[int] = []
        for left, operator, right in (_operands(step, numbers) for step in scenario.steps):
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
