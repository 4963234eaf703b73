"""Results found in answers as people and models write them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
        ("The answer is a mall.", "B"),
        ("The answer is A mall", "B"),
        ("The correct choice is B, not (A).", "B"),
        ("I think it's B because (A) is money", "B"),
        ("the answer must be (B) rather than (C)", "B"),
        ("The answer is **B**.", "B"),
        ("**B**", "B"),
        ("#### **B**", "B"),
        ("Answer: B", "B"),
        ("Final answer: B", "B"),
        ("#### Answer: B", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"#### \boxed{B}", "B"),
        ("#### Option B", "B"),
        ("The correct answer is option B.", "B"),
        ("Answer is: $B$", "B"),
        ("The answer is A.", "A"),
        ("#### a mall", "B"),
        ("### Answer\nB", "B"),
        ("It is (A) or (B): it has shops, so (B)", "B"),
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
        ("The statement is not true.", "no"),
        ("It is not false.", "yes"),
        ("It isn't true.", "no"),
        ("#### **No**", "no"),
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


RESULTS = r"""
7 apples|1/2|10:30|x = 3|2 1/2|50%|$7.50|-3|1,234|0.5|.5|3 hours|7 and 8|1e3|Paris|(B)|2x + 1|7 or more|3:2|½|€5|7 p.m.
C++|1/2/2024|\frac{1}{2}|(1, 2)|1,2,3|x = 1, y = 2
"""


@pytest.mark.parametrize("result", ["\u22123", *RESULTS.strip().replace("\n", "|").split("|")])
def test_whatever_is_expected_is_right_where_it_is_stated(result: str) -> None:
    found = extract(Problem("?", result), f"3 of 4, so that is what comes out.\n#### {result}\nI think.")
    assert found is not None
    assert same_result(found, result)


@given(st.text(min_size=1).map(str.strip).filter(lambda text: text and len(text.splitlines()) == 1 and "#" not in text))
def test_any_expected_line_is_right_where_it_is_stated(result: str) -> None:
    found = extract(Problem("?", result), f"So it is.\n#### {result}")
    assert found is not None
    assert same_result(found, result)


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("7 apples", "She has 7 apples.", True),
        ("7 apples", "#### 7", True),
        ("7", "#### 7 apples", True),
        ("7", "#### 7 and 8", False),
        ("1", "#### 1/2", False),
        ("2", "It is 1/2", False),
        ("0.5", "It is 1/2", True),
        ("0.5", "#### 50%", True),
        ("10", "#### 10:30", False),
        ("1000", "#### 1e3", True),
        ("1", "#### 1e3", False),
        ("8", "#### 5 + 3 = 8", True),
        ("2", "#### 2x + 1", False),
        ("-5", "#### \u22125", True),
        ("10:30", "They meet at 10:30.", True),
        ("x = 3", "So x is 3.", True),
        ("7 and 8", "7 and 8", True),
        ("Paris", "The answer is Paris.", True),
        ("1/2", r"Thus \boxed{\frac{1}{2}}.", True),
        # what is stated goes before the last number
        ("7", r"\boxed{7} apples. That is 3 + 4.", True),
        ("7", "The answer is 7, since 3 + 4.", True),
        ("4", "The answer is 7, since 3 + 4.", False),
        ("1/2", "#### Conclusion\nThe answer is \\boxed{\\frac{1}{2}}.", True),
        ("7", "#### Final Answer:\n**7**", True),
        # ranges and other values that begin with a number
        ("5", "#### 5-10", False),
        ("5-10", "#### 5 to 10", True),
        ("10", "The answer is between 5 and 10.", False),
        ("1", "#### $1M", False),
        ("7", "#### 7 squared", False),
        # values that are more than numbers, without a mark
        ("3 pm", "It arrives at 3 pm.", True),
        ("3 pm", "It arrives at 3 am.", False),
        ("2:3", "The ratio is 2:3.", True),
        ("(3, 4)", "The solution is (3, 4).", True),
        ("7 and 8", "The numbers are 7 and 8.", True),
        ("7 and 8", "The numbers are 7 and 9.", False),
        ("x = 3, y = 4", "So x = 3 and y = 4.", True),
        ("2 hours 30 minutes", "It takes 2 hours and 30 minutes.", True),
        ("Paris", "**Answer:** Paris", True),
        ("no", "#### No, because it is cold.", True),
        ("no", "#### Yes, because it is cold.", False),
        ("-5", "#### minus 5", True),
        ("7", "#### Total cost: $7", True),
        ("7", "#### 7 times", True),
        ("7", "#### 7 more apples than Tom", True),
        ("7", "#### 7 apples in 3 boxes", True),
        ("7", "#### 7-foot", True),
        ("7", "#### 7 is the answer", True),
        ("150", "#### 2 hours 30 minutes = 150 minutes", True),
        ("1", "#### 1 in 10", False),
        ("2", "#### 2 thirds of them", False),
        ("14", "The result is 7. Twice that is 14.", True),
        ("12", "Answer: 3 boxes * 4 = 12 apples, so 12.", True),
    ],
)
def test_a_result_is_right_in_another_form_and_its_first_digits_are_not(
    expected: str, answer: str, right: bool
) -> None:
    found = extract(Problem("?", expected), answer)
    assert found is not None
    assert same_result(found, expected) is right


@pytest.mark.parametrize("path", ["gsm8k/test.jsonl", "gsm8k/train.jsonl", "svamp/SVAMP.json", "strategyqa/task.json"])
def test_every_expected_result_of_a_data_set_is_right(path: str) -> None:
    for problem in read_problems(shared(f"data/{path}")):
        found = extract(problem, f"#### {problem.expected}")
        assert found is not None
        assert same_result(found, problem.expected)
        assert not same_result(found, f"{problem.expected}1")


def test_every_expected_choice_of_commonsenseqa_is_right() -> None:
    for problem in read_problems(shared("data/commonsenseqa/dev_rand_split.jsonl")):
        for answer in (f"#### {problem.expected}", f"So the answer is ({problem.expected})."):
            assert extract(problem, answer) == problem.expected


@pytest.mark.parametrize(
    "run", ["#### ", "#### a\n", "answer", "answer is ", "* ", " ", "{", "7 ", "7,", "(A) ", "not ", "is "]
)
@pytest.mark.parametrize("problem", [NUMBER, WHERE, IS_IT, Problem("?", "7 and 8"), Problem("Who?", "Ann")])
def test_long_answers_take_no_longer_than_their_length(problem: Problem, run: str) -> None:
    begin = time.process_time()
    extract(problem, "answer" + run * (100_000 // len(run)))
    assert time.process_time() - begin < 3


def test_gsm8k_solutions_give_their_results() -> None:
    path = shared("data/gsm8k/test.jsonl")
    solutions = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    for problem, solution in zip(read_problems(path), solutions, strict=True):
        found = extract(problem, solution)
        assert found is not None
        assert same_result(found, problem.expected)
