"""Expressions against values computed without reading them, and against GSM8K's own annotations."""

from __future__ import annotations

import json
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared

from edgereason.text.calculator import evaluate, result_of, written

Tree = tuple[str, Fraction]
"""An expression's text and its value, computed beside each other."""


def numbers() -> st.SearchStrategy[Tree]:
    return st.builds(
        lambda whole, hundredths: (f"{whole}.{hundredths:02d}", Fraction(100 * whole + hundredths, 100)),
        st.integers(0, 999),
        st.integers(0, 99),
    ) | st.integers(0, 9999).map(lambda n: (str(n), Fraction(n)))


def combined(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    pairs = st.tuples(parts, parts)
    return st.one_of(
        pairs.map(lambda p: (f"({p[0][0]} + {p[1][0]})", p[0][1] + p[1][1])),
        pairs.map(lambda p: (f"({p[0][0]}-{p[1][0]})", p[0][1] - p[1][1])),
        pairs.map(lambda p: (f"{p[0][0]}*{p[1][0]}", p[0][1] * p[1][1])),
        pairs.filter(lambda p: p[1][1] != 0).map(lambda p: (f"({p[0][0]})/({p[1][0]})", p[0][1] / p[1][1])),
        parts.map(lambda p: (f"(-{p[0]})", -p[1])),
        parts.map(lambda p: (f"({p[0]})%", p[1] / 100)),
    )


@given(st.recursive(numbers(), combined, max_leaves=6))
def test_an_expression_has_the_value_of_its_tree(tree: Tree) -> None:
    text, value = tree
    if len(text) <= 200 and abs(value) <= 10**15:
        assert evaluate(text) == value


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2+3*4", 14), ("10-4-3", 3), ("24/4/2", 3), ("1,200*2", 2400), (".5*8", 4), ("50%*30", 15), ("--3", 3)],
)
def test_precedence_and_order(expression: str, value: int) -> None:
    assert evaluate(expression) == value


NONSENSE = ["", " ", "1/0", "1/(2-2)", "2+", "(2", "2)", "2 3", "1.2.3", "a+1", "2**3", "1,2", "__import__('os')", "²"]
TOO_MUCH = ["(" * 40 + "1" + ")" * 40, "-" * 40 + "1", "1+" * 150 + "1", "9" * 20]


@pytest.mark.parametrize("nonsense", [*NONSENSE, *TOO_MUCH])
def test_nonsense_has_no_value(nonsense: str) -> None:
    assert evaluate(nonsense) is None


@given(st.text(alphabet="0123456789+-*/()%., ", max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    value = evaluate(text)
    assert value is None or float(written(value)) == pytest.approx(float(value), rel=1e-12, abs=5e-7)


def test_results_are_written_as_people_write_them() -> None:
    cases = {Fraction(9): "9", Fraction(1200): "1200", Fraction(1, 5): "0.2", Fraction(-1, 2): "-0.5", Fraction(0): "0"}
    assert {value: written(value) for value in cases} == cases
    assert written(Fraction(2, 3)) == "0.666667"
    assert written(Fraction(-1, 10**9)) == "0"


def test_only_an_open_computation_gets_its_result() -> None:
    assert result_of("He has <<16-3-4=") == "9>>"
    assert result_of("<<1+1=2>>2 and <<3+") is None
    assert result_of("16-3=") is None
    assert result_of("<<1+1=2>> x=") is None
    assert result_of("<<1/0=") is None


def test_annotations_of_gsm8k_have_their_results() -> None:
    lines = shared("data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    annotations = [pair for line in lines for pair in re.findall(r"<<([^<>]*)=([^<>=]*)>>", json.loads(line)["answer"])]
    right = [evaluate(expression) == evaluate(result) for expression, result in annotations]
    assert len(right) > 4000
    assert sum(right) / len(right) > 0.99  # the rest are rounded results, and mistakes of the annotators


def test_gsm8k_repeats_results_behind_their_annotations_in_95_of_100_places() -> None:
    lines = shared("data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    places = [
        place for line in lines for place in re.findall(r"<<([^<>=]*)=[^<>=]*>>([\d.]*\d)?", json.loads(line)["answer"])
    ]
    repeated = [behind == result_of(f"<<{expression}=")[:-2] for expression, behind in places]  # type: ignore[index]
    assert 0.94 < sum(repeated) / len(repeated) < 0.96
