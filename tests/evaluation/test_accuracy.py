"""Reading problems, comparing results, and intervals."""

from __future__ import annotations

import pytest
from places import TINY

from edgereason import UsageError, load
from edgereason.evaluation import Accuracy, Problem, Row, measure, read_problems, same_result


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("42", "42", True),
        ("$1,200.00", "1200", True),
        ("42.", "42", True),
        ("4.20", "4.2", True),
        ("42", "43", False),
        ("yes", "Yes", True),
        ("yes", "no", False),
        ("42", "yes", False),
        ("nan", "nan", True),
        ("Infinity", "42", False),
    ],
)
def test_results_compare_as_numbers_or_as_text(found: str, expected: str, same: bool) -> None:
    assert same_result(found, expected) is same


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    rows = [Row("", "", "", None, "", correct) for correct in [True] * 80 + [False] * 20]
    report = Accuracy(tuple(rows))
    assert (report.correct, report.total, report.accuracy) == (80, 100, 0.8)
    # Normal approximation as witness: 0.8 plus or minus 1.96 standard errors of 0.04.
    assert report.low == pytest.approx(0.8 - 0.0784, abs=0.011)
    assert report.high == pytest.approx(0.8 + 0.0784, abs=0.011)


def test_problems_asked_together_have_the_transcripts_of_asking_each() -> None:
    problems = [*read_problems(TINY / "held_out.jsonl", 30), Problem("What is 2 + 2?", "unknown")]
    with load() as reasoner:
        report = measure(reasoner, iter(problems), size=8)
        alone = [reasoner.ask(problem.text, temperature=0.0) for problem in problems]
        with pytest.raises(UsageError, match="empty"):
            measure(reasoner, [*problems[:3], Problem(" ", "1")])
    assert [(row.question, row.guidance, row.answer) for row in report.rows] == [
        (result.question, result.guidance, result.answer) for result in alone
    ]
    assert [row.expected for row in report.rows] == [problem.expected for problem in problems]
    assert report.correct == 30
