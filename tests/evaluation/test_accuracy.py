"""Reading problems, comparing results, and intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.errors import UsageError
from edgereason.evaluation import Accuracy, Problem, Row, read_problems, same_result


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


def test_both_forms_of_problems_are_read(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "a?", "result": 7}\n\n{"question": "b?", "answer": "1+1=2\\n#### 1,002"}\n')
    assert read_problems(file) == [Problem("a?", "7"), Problem("b?", "1,002")]
    assert read_problems(file, limit=1) == [Problem("a?", "7")]


@pytest.mark.parametrize("line", ["{", "[]", '{"question": "a?"}', '{"question": " ", "result": 1}', "7"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "a?", "result": 7}\n' + line)
    with pytest.raises(UsageError, match=r"problems\.jsonl:2 is not a problem"):
        read_problems(file)


def test_no_problems_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_problems(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="leaves no problem"):
        read_problems(tmp_path / "empty")


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    rows = [Row("", "", "", None, "", correct) for correct in [True] * 80 + [False] * 20]
    report = Accuracy(tuple(rows))
    assert (report.correct, report.total, report.accuracy) == (80, 100, 0.8)
    # Normal approximation as witness: 0.8 plus or minus 1.96 standard errors of 0.04.
    assert report.low == pytest.approx(0.8 - 0.0784, abs=0.011)
    assert report.high == pytest.approx(0.8 + 0.0784, abs=0.011)
