"""The problems of the default model: right, within their ranges, and guidance that computes nothing."""

from __future__ import annotations

import ast
import operator
import random
import re
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.problems.word_problems import KNOWN, UNKNOWN, Pool, held_out, problems, sample_problem
from edgereason.problems.word_problems.story import sample_accounts
from edgereason.problems.words import HE, NAMES
from edgereason.problems.worked_problem import WorkedProblem, question_key

EVERY = Pool((*KNOWN, *UNKNOWN))
WORDS = {"half": 2, "twice": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "three times": 3, "four times": 4}
WORDS |= {"five times": 5}
CONSTANTS = {2, 7, 12, 60, 100}
"""What guidance may name that the question does not: the people of an average, days, dozens, minutes, cents."""

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(node: ast.AST) -> Fraction:
    """Python's own reading of an expression, computed in fractions: a witness for our calculator."""
    if isinstance(node, ast.Expression):
        return value(node.body)
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](value(node.left), value(node.right))
    assert isinstance(node, ast.Constant)
    return Fraction(node.value)


def numbers(text: str) -> set[int]:
    return {int(found) for found in re.findall(r"\d+", text)}


def numbers_of_question(question: str) -> set[int]:
    words = question.lower()
    return numbers(question) | {number for word, number in WORDS.items() if word in words}


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_every_answer_follows_from_its_question(seed: int) -> None:
    problem = sample_problem(random.Random(seed), EVERY)
    known = numbers_of_question(problem.question)
    assert max(known) <= 1000
    results = []
    for expression, result in re.findall(r"<<(.*?)=(.*?)>>", problem.answer):
        assert value(ast.parse(expression, mode="eval")) == Fraction(result)
        assert numbers(expression) <= known | set(results) | CONSTANTS
        results.append(int(result))
    assert min(results) >= 1
    assert max(results) <= 10_000
    assert problem.answer.endswith(f"#### {problem.result}")
    assert str(results[-1]) == problem.result
    assert 1 <= len(results) <= 4


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_guidance_computes_nothing(seed: int) -> None:
    problem = sample_problem(random.Random(seed), EVERY)
    assert numbers(problem.guidance) <= numbers_of_question(problem.question) | CONSTANTS
    asked, given, steps = problem.guidance.splitlines()
    assert (asked[:7], given[:7], steps[:7]) == ("Asked: ", "Given: ", "Steps: ")
    assert steps.count(", then ") + 1 == problem.answer.count("<<")
    assert not re.search(r"[{}\[\]|]", problem.question + problem.guidance + problem.answer)


def test_there_are_enough_structures_and_a_fifth_is_held_out() -> None:
    assert len({structure.name for structure in EVERY}) == len(EVERY) >= 60
    assert len(UNKNOWN) / len(EVERY) >= 0.2
    assert {structure.steps for structure in EVERY} == {1, 2, 3, 4}
    trained = {id(clause) for structure in KNOWN for clause, _ in structure.clauses}
    assert all(id(clause) in trained for structure in UNKNOWN for clause, _ in structure.clauses)
    asked = {id(structure.question[0]) for structure in KNOWN}
    assert all(id(structure.question[0]) in asked for structure in UNKNOWN)


def test_a_seed_makes_the_same_problems_again() -> None:
    def first(seed: int) -> list[WorkedProblem]:
        stream = problems(seed)
        return [next(stream) for _ in range(20)]

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize("structures", [KNOWN, UNKNOWN])
def test_held_out_problems_are_different_and_excluded(structures: Pool) -> None:
    held = held_out(0, 150, structures)
    keys = {question_key(problem.question) for problem in held}
    assert len(keys) == len(held) == 150
    stream = problems(0, keys)
    assert all(question_key(next(stream).question) not in keys for _ in range(500))


def test_wordings_vary() -> None:
    stream = problems(3)
    questions = [next(stream).question for _ in range(3000)]
    shapes = {re.sub(r"\d+|\b[A-Z]\w+", "#", question) for question in questions}
    assert len(shapes) > 2500
    assert sum(len(question) for question in questions) / len(questions) < 250


def test_a_sentence_that_begins_with_a_pronoun_means_one_person() -> None:
    for problem in islice(problems("pronouns"), 3000):
        for found in re.finditer(r"(?<=[.?] )(He|She)\b", problem.question):
            told = {name for name in NAMES if re.search(rf"\b{name}\b", problem.question[: found.start()])}
            assert sum((name in HE) == (found[0] == "He") for name in told) == 1, problem.question


def test_accounts_compute_from_what_their_steps_name() -> None:
    for seed in range(300):
        read, work = sample_accounts(random.Random(seed))
        given, steps = read.splitlines()
        assert steps.count(", then ") + 1 == len(work.splitlines()) >= 2
        shown = numbers(given) | {2}
        for line, step in zip(work.splitlines(), steps.removeprefix("Steps: ").split(", then "), strict=True):
            expression, result = re.findall(r"<<(.*?)=(.*?)>>", line)[0]
            assert value(ast.parse(expression, mode="eval")) == Fraction(result)
            assert numbers(expression) <= shown
            assert numbers(step) <= numbers(expression)
            shown |= {int(result)}


def test_a_line_names_the_amounts_that_it_takes_and_the_one_that_it_makes() -> None:
    stale = 0
    for problem in islice(problems("lines"), 2000):
        *work, _ = problem.answer.splitlines()
        is_now: dict[str, str] = {}
        for line in work:
            before, expression, result, label, made = re.fullmatch(
                r"(.*?)([\d*/+-]+) = <<\2=(\d+)>>\3; (.+): (\3) \w+", line
            ).groups()  # type: ignore[union-attr]
            taken = re.findall(r"(.+?): (\d+); ", before) or [
                (before.removesuffix(": "), re.findall(r"\d+", expression)[0])
            ]
            for name, value in taken if before else ():
                assert is_now.get(name, value) == value, problem.answer
                assert value in re.findall(r"\d+", expression)
            stale += label in is_now
            is_now[label] = made
            assert made == result
    assert stale > 100  # amounts that change, so that there is a wrong one to take
