"""Formulas compared by algebra."""

from __future__ import annotations

import time

import pytest

from edgereason.errors import UsageError
from edgereason.evaluation import EvaluationSettings, Problem, formulas, measure_accuracy
from edgereason.evaluation.formulas import same_formula
from edgereason.pipeline.reasoner import Reasoner
from edgereason.problems.equivalence import same_result


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("x^2 - 1", "(x - 1)(x + 1)", True),
        ("sqrt(8)", "2\u221a2", True),
        ("2\u03c0", "2 pi", True),
        ("y = 2x + 1", "1 + 2x", True),
        (r"\sqrt{144}", "12", True),
        ("x \u2265 3", "3 <= x", True),
        (r"1 and \sqrt{4}", "1 and 2", True),
        ("2x + 1", "2x + 2", False),
        ("7x", "7", False),
        (r"\sqrt{2}", "1.41", False),
    ],
)
def test_formulas_are_the_same_by_algebra(one: str, other: str, same: bool) -> None:
    assert same_result(one, other, same_formula) is same
    assert same_result(other, one, same_formula) is same


def test_a_tower_of_powers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formulas, "TIME_S", 3)
    begin = time.monotonic()
    assert not same_formula("9^{9^{9^{9}}}", "8")
    assert time.monotonic() - begin < 30


def test_without_math_verify_formulas_are_refused_and_other_results_are_not(
    reasoner: Reasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formulas, "available", lambda: False)
    way = EvaluationSettings("answer-only", max_new_tokens=2)
    with pytest.raises(UsageError, match="Math-Verify, which compares formulas, is not installed"):
        measure_accuracy(reasoner, [Problem("How many?", "7"), Problem("What is y?", "2x + 1")], way)
    assert measure_accuracy(reasoner, [Problem("How many?", "7 apples")], way).total == 1
    assert not same_formula("2x + 1", "1 + 2x")
    assert same_formula("2x*1", r"2x\cdot 1")
