"""Comparing results, and intervals."""

from __future__ import annotations

import pytest

from edgereason.errors import UsageError
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


def row(correct: bool, structure: str = "", error: str = "") -> Row:
    return Row("How many?", "", "7", "7", "7" if correct else "8", correct, structure, error)


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    report = Accuracy(tuple(row(correct) for correct in [True] * 80 + [False] * 20))
    assert (report.correct, report.total, report.accuracy) == (80, 100, 0.8)
    # Normal approximation as witness: 0.8 plus or minus 1.96 standard errors of 0.04.
    assert report.low == pytest.approx(0.8 - 0.0784, abs=0.011)
    assert report.high == pytest.approx(0.8 + 0.0784, abs=0.011)


def test_structures_have_figures_of_their_own() -> None:
    report = Accuracy((row(True, "a"), row(True), row(False, "b"), row(False, "a")))
    assert {name: (each.correct, each.total) for name, each in report.by_structure().items()} == {
        "a": (1, 2),
        "b": (0, 1),
    }


def test_rows_have_the_fields_of_the_format_and_others_only_where_they_say_something() -> None:
    fields = ["question", "guidance", "answer", "final", "expected", "correct"]
    assert list(row(True).to_json()) == fields
    assert list(row(True, "a", "b").to_json()) == [*fields, "structure", "error"]
    for each in (row(True), row(False, "a", "b")):
        assert Row.from_json(each.to_json(), "x") == each


@pytest.mark.parametrize("change", [{"correct": 1}, {"question": None}, {"unknown": 1}])
def test_what_is_no_row_is_named(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="row 3 is not a row"):
        Row.from_json({**row(True).to_json(), **change}, "row 3")
