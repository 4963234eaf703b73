"""Two ways on the same problems: the test against counting all cases, the interval against the normal distribution."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.errors import UsageError
from edgereason.evaluation import Comparison, Row, compare


def rows(pattern: str) -> list[Row]:
    return [Row(f"q{number}", "", "", None, "1", mark == "+") for number, mark in enumerate(pattern)]


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5))
def test_p_counts_the_cases_at_least_as_far_apart(only_this: int, only_other: int, same: int) -> None:
    if only_this + only_other + same == 0:
        return
    # Each problem that one way alone answers right could as well have been the other's.
    cases = [abs(sum(signs)) for signs in product((1, -1), repeat=only_this + only_other)]
    expected = sum(case >= abs(only_this - only_other) for case in cases) / len(cases)
    comparison = Comparison(only_this, only_other, only_this + only_other + same)
    assert comparison.p == pytest.approx(expected)


def test_p_of_thousands_of_problems_is_a_number() -> None:
    assert Comparison(3000, 3000, 9000).p == 1
    assert 0 <= Comparison(5000, 1000, 9000).p < 1e-300
    # 5 of 15: the sign test's tables (Dixon and Mood, 1946) have 0.302.
    assert Comparison(5, 10, 200).p == pytest.approx(0.302, abs=5e-4)


def test_the_interval_is_that_of_paired_problems() -> None:
    comparison = Comparison(60, 20, 400)
    # The variance of a mean of +1 (60 times), -1 (20 times) and 0.
    error = ((80 / 400 - 0.1**2) / 400) ** 0.5
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.low == pytest.approx(0.1 - 1.96 * error, abs=0.004)
    assert comparison.high == pytest.approx(0.1 + 1.96 * error, abs=0.004)


def test_pairs_are_counted() -> None:
    found = compare(rows("++--+-"), rows("+-+-+-"), "that")
    assert found == Comparison(1, 1, 6, "that")
    assert compare(rows("+++"), rows("---")).difference == 1


@pytest.mark.parametrize("others", [rows("++"), rows("++++"), [], rows("+++")[::-1]])
def test_other_problems_cannot_be_paired(others: list[Row]) -> None:
    with pytest.raises(UsageError, match="are not the same ones"):
        compare(rows("+++"), others)
    with pytest.raises(UsageError):
        compare([], [])
