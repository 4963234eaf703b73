"""Reading problems, comparing results, and intervals."""

from __future__ import annotations

import pytest

from edgereason.evaluation import Accuracy, Row, same_result


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
