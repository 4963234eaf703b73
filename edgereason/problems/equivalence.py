"""When two results are the same: the one comparison of votes, of training's filters and of evaluation.

It is reflexive and symmetric. It is not transitive: what only one side says does not matter, and so `7` is the same as
`7 apples` and as `7 pears`, which differ. A vote therefore groups results that are all the same as each other.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from edgereason.problems.result_values import (
    Clock,
    Equation,
    Formula,
    Quantity,
    Range,
    Several,
    Value,
    is_percentage,
    read_value,
)
from edgereason.problems.units import compatible

_CENTS = {"cent": 1, "dollar": 100}

SameFormula = Callable[[str, str], bool]
"""Whether two expressions have the same value, by algebra; it has to be symmetric."""


def same_result(one: str, other: str, same_formula: SameFormula | None = None) -> bool:
    """Whether two results are the same, each compared as what it is.

    Numbers are exact: 1/2 is 0.5 and .5 and 5e-1, 1/3 is not 0.33. A unit, a currency or a variable that only one side
    has does not matter, two different ones do. 50% is 50, whose sign was left out, and 0.5, its value. 10:30 is a time
    of day. Lists are the same in their order; sets, alternatives ("or") and values that all have names or units of
    their own in any order. Texts are the same whatever their case, quotes and final punctuation.

    >>> same_result("$1,200.00", "1200"), same_result("7 apples", "7 pears"), same_result("7 and 8", "7")
    (True, False, False)

    Args:
        one: A result, such as `final_result` finds it.
        other: Another.
        same_formula: Decides on formulas, such as `2x + 1`, that are not written the same; without it they differ.
    """
    return _same(read_value(one), read_value(other), same_formula)


def is_formula(result: str) -> bool:
    """Whether a result is, or contains, an expression that only algebra can compare."""
    return _has_formula(read_value(result))


def _has_formula(value: Value) -> bool:
    if isinstance(value, Equation):
        return _has_formula(value.value)
    return any(map(_has_formula, value.values)) if isinstance(value, Several) else isinstance(value, Formula)


def _same(one: Value, other: Value, same_formula: SameFormula | None) -> bool:
    if one == other:
        return True
    if isinstance(one, Equation) or isinstance(other, Equation):
        (name, value), (name_too, value_too) = _named(one), _named(other)
        return (not name or not name_too or name == name_too) and _same(value, value_too, same_formula)
    if isinstance(one, Formula) or isinstance(other, Formula):
        expression, expression_too = _expression(one), _expression(other)
        return bool(same_formula and expression and expression_too and same_formula(expression, expression_too))
    if isinstance(one, Quantity) and isinstance(other, Quantity):
        return _same_quantity(one, other)
    if isinstance(one, Clock) and isinstance(other, Clock):
        return _same_time(one, other)
    if isinstance(one, Clock | Quantity) and isinstance(other, Clock | Quantity):
        return _same_hour(*((one, other) if isinstance(one, Clock) else (other, one)))
    if isinstance(one, Range) and isinstance(other, Range):
        return _same_quantity(one.low, other.low) and _same_quantity(one.high, other.high)
    if isinstance(one, Several) and isinstance(other, Several):
        return _same_values(one, other, same_formula)
    return False  # of different kinds, or different texts


def _named(value: Value) -> tuple[str, Value]:
    return (value.name, value.value) if isinstance(value, Equation) else ("", value)


def _expression(value: Value) -> str | None:
    if isinstance(value, Quantity):
        return str(value.value)
    return value.text if isinstance(value, Formula) else None


def _same_quantity(one: Quantity, other: Quantity) -> bool:
    if is_percentage(one) != is_percentage(other):
        percentage, number = (one, other) if is_percentage(one) else (other, one)
        return not number.unit and number.value in (percentage.value, percentage.value / 100)
    if {*one.unit[:1], *other.unit[:1]} == {"cent", "dollar"}:
        return one.value * _CENTS[one.unit[0]] == other.value * _CENTS[other.unit[0]] and compatible(
            one.unit[1:], other.unit[1:]
        )
    return one.value == other.value and compatible(one.unit, other.unit)


def _same_time(one: Clock, other: Clock) -> bool:
    if (one.minute, one.second) != (other.minute, other.second):
        return False
    if bool(one.half) == bool(other.half):
        return one.hour_of_day == other.hour_of_day
    return one.hour == other.hour or one.hour_of_day == other.hour_of_day


def _same_hour(time: Clock, number: Value) -> bool:
    """Whether a number is a full hour: 7 o'clock is 7."""
    return isinstance(number, Quantity) and (number, time.minute, time.second) == (Quantity(Fraction(time.hour)), 0, 0)


def _same_values(one: Several, other: Several, same_formula: SameFormula | None) -> bool:
    if len(one.values) != len(other.values) or (one.brackets and other.brackets and one.brackets != other.brackets):
        return False
    if all(_same(*pair, same_formula) for pair in zip(one.values, other.values, strict=True)):
        return True
    if not (_unordered(one) and _unordered(other)):
        return False
    pairs = [[_same(value, value_too, same_formula) for value_too in other.values] for value in one.values]
    return all(map(any, pairs)) and all(map(any, zip(*pairs, strict=True)))


def _unordered(several: Several) -> bool:
    """Whether the order does not matter: a set, alternatives, or each value with a name or unit of its own."""
    marks = [_mark(value) for value in several.values]
    return several.alternatives or (all(marks) and len(set(marks)) == len(marks))


def _mark(value: Value) -> object:
    return value.name if isinstance(value, Equation) else value.unit if isinstance(value, Quantity) else None
