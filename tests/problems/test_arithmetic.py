"""What the generator promises of its problems, checked by reading them as text."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.problems import words
from edgereason.problems.arithmetic.generator import (
    LARGEST,
    SCENARIOS,
    arithmetic_problems,
    compute,
    held_out_arithmetic,
    sample_arithmetic,
)
from edgereason.problems.arithmetic.scenario import Scenario
from edgereason.problems.final_result import final_result
from edgereason.problems.worked_problem import WorkedProblem, question_key

SAMPLE = list(islice(arithmetic_problems("test"), 4000))
LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+", text))


def slots(template: str) -> set[str]:
    return {slot.lower() for slot in re.findall(r"\{(\w+)\}", template)}


def test_guidance_has_only_the_numbers_of_the_question() -> None:
    for problem in SAMPLE:
        assert numbers(problem.guidance) <= numbers(problem.question), problem


def test_guidance_has_all_the_numbers_of_the_question() -> None:
    for problem in SAMPLE:
        assert numbers(problem.question) <= numbers(problem.guidance), problem


def test_every_line_of_an_answer_is_true_and_the_last_is_the_result() -> None:
    for problem in SAMPLE:
        *lines, last = problem.answer.splitlines()
        assert lines
        for line in lines:
            match = LINE.fullmatch(line)
            assert match, line
            left, right, result = Fraction(match[1]), Fraction(match[3]), Fraction(match[4])
            value = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[match[2]]
            assert value == result
            assert 1 <= result <= LARGEST
        assert last == f"#### {problem.result}"
        assert lines[-1].endswith(f"= {problem.result}")
        assert final_result(problem.answer) == problem.result


def test_every_number_that_an_answer_computes_with_is_known_by_then() -> None:
    for problem in SAMPLE:
        known = numbers(problem.question) | {"2"}
        for line in problem.answer.splitlines()[:-1]:
            left, _, right, _, result = line.split()
            assert {left, right} <= known, problem
            known.add(result)


def test_guidance_and_answer_are_functions_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few words and small numbers, so that independent samples often give the same question, across scenarios too.
    few = {"NAMES": ("Tom", "Ben", "Mia"), "THINGS": words.THINGS[:1], "GOODS": words.GOODS[:2]}
    few |= {"CONTAINERS": words.CONTAINERS[:1], "COLORS": words.COLORS[:2]}
    few |= {name: getattr(words, name)[:1] for name in ("PEOPLE", "PLACES", "DAYS")}
    for name, value in few.items():
        monkeypatch.setattr(words, name, value)
    small = [replace(each, ranges=dict.fromkeys("abc", (2, 16))) for each in SCENARIOS]
    seen: dict[str, WorkedProblem] = {}
    rng, again = random.Random(0), 0
    for _ in range(20_000):
        problem = sample_arithmetic(rng, small)
        again += problem.question in seen
        first = seen.setdefault(problem.question, problem)
        assert (first.guidance, first.answer) == (problem.guidance, problem.answer)
    assert again > 2000


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_wording_shows_what_guidance_says(scenario: Scenario) -> None:
    needed = slots(scenario.asked + scenario.given)
    for story in scenario.stories:
        # What stands in only one of several alternatives may be missing.
        certain = re.sub(r"\[[^\[\]]*\]", "", story)
        shown = slots(certain)
        shown |= {f"{slot}s" for slot in shown & {"good"}}
        assert needed <= shown | ({"boxes"} if "box" in shown else set()), story


def test_no_two_scenarios_share_a_name_or_a_wording() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    stories = [story for scenario in SCENARIOS for story in scenario.stories]
    assert len(set(stories)) == len(stories)


def test_every_scenario_is_sampled() -> None:
    assert {problem.structure for problem in SAMPLE} == {scenario.name for scenario in SCENARIOS}


def test_no_template_mark_is_left_in_a_problem() -> None:
    for problem in SAMPLE:
        assert not re.search(r"[][{}|]|#[1-9]|  ", problem.question + problem.guidance), problem


def test_a_seed_gives_the_same_problems() -> None:
    assert (
        list(islice(arithmetic_problems(7), 50))
        == list(islice(arithmetic_problems(7), 50))
        != list(islice(arithmetic_problems(8), 50))
    )


def test_held_out_problems_are_different_and_cover_all_scenarios() -> None:
    found = held_out_arithmetic(0)
    assert len({question_key(problem.question) for problem in found}) == len(found) == 200
    assert {problem.structure for problem in found} == {scenario.name for scenario in SCENARIOS}
    assert held_out_arithmetic(0) == found != held_out_arithmetic(1)


def test_training_never_shows_an_excluded_question() -> None:
    # Excluding everything that one seed samples makes the same seed sample around it.
    sampled: list[WorkedProblem] = list(islice(arithmetic_problems(3), 300))
    exclude = {question_key(problem.question) for problem in sampled}
    again = islice(arithmetic_problems(3, exclude), 300)
    assert not exclude & {question_key(problem.question) for problem in again}


@given(st.sampled_from("+-*/"), st.integers(1, 400), st.integers(1, 400))
def test_compute_is_exact_or_refuses(operator: str, left: int, right: int) -> None:
    result = compute(operator, left, right)
    left_, right_ = Fraction(left), Fraction(right)
    value = {"+": left_ + right_, "-": left_ - right_, "*": left_ * right_, "/": left_ / right_}[operator]
    assert result is None or (result == value and 1 <= result <= LARGEST)
