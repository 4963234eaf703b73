"""Results found in answers as people and models write them."""

from __future__ import annotations

import json

import pytest
from shared_data import shared

from edgereason.evaluation import same_result
from edgereason.problems.extraction import extract
from edgereason.problems.records import Problem, read_problems

NUMBER = Problem("How many?", "9")
WHERE = Problem("Where?", "B", "choice", ("a bank", "a mall", "the desert"))
IS_IT = Problem("Is it?", "no", "yes-no")
CODE = Problem("def f():\n", "check(f)", "code")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("16 - 7 = 9\n#### 9", "9"),
        ("#### -1,234.5", "-1234.5"),
        ("She makes $1,218.00 a day.", "1218.00"),
        ("It takes 3 bolts.", "3"),
        ("The answer is 42.", "42"),
        ("#### 8 apples, not 9", "8"),
        ("-5", "-5"),
        ("I do not know.", None),
        ("...", None),
        ("", None),
    ],
)
def test_numbers(answer: str, found: str | None) -> None:
    assert extract(NUMBER, answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("So the answer is (B).", "B"),
        ("The answer is b", "B"),
        ("#### B", "B"),
        ("#### (C) the desert", "C"),
        ("Either (A) or (B): it has shops, so (B)", "B"),
        ("B) a mall", "B"),
        ("B", "B"),
        ("People shop in a mall.", "B"),
        ("A mall or a bank.", None),
        ("The answer is (E).", None),
        ("Because.", None),
        ("", None),
    ],
)
def test_choices(answer: str, found: str | None) -> None:
    assert extract(WHERE, answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("No. Frost is common, yes, but not there.", "no"),
        ("Frost is rare there, so no", "no"),
        ("So the answer is yes.", "yes"),
        ("Yes and no.\n#### No", "no"),
        ("That is true.", "yes"),
        ("Nobody knows.", None),
    ],
)
def test_yes_and_no(answer: str, found: str | None) -> None:
    assert extract(IS_IT, answer) == found


def test_code_comes_from_its_block() -> None:
    assert extract(CODE, "Here:\n```python\ndef f():\n    return 1\n```\nDone.") == "def f():\n    return 1\n"
    assert extract(CODE, "```\ndef f():\n    return 1") == "def f():\n    return 1"
    assert extract(CODE, "    return 1\n") == "    return 1\n"
    assert extract(CODE, "") is None


def test_text_results_follow_their_marker() -> None:
    assert extract(Problem("Who?", "Ann"), "Bob or Ann.\n#### Ann\n") == "Ann"
    assert extract(Problem("Who?", "Ann"), "Bob left.\nAnn") == "Ann"


def test_gsm8k_solutions_give_their_results() -> None:
    path = shared("data/gsm8k/test.jsonl")
    solutions = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    for problem, solution in zip(read_problems(path), solutions, strict=True):
        found = extract(problem, solution)
        assert found is not None
        assert same_result(found, problem.expected)
