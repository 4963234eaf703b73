"""Exact arithmetic for what an answer writes as `<<16-3-4=9>>`, the way GSM8K's solutions do (arXiv 2110.14168)."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

OPENING, CLOSING = "<<", ">>"

LONGEST = 200  # characters of an expression
_DEEPEST = 32  # parentheses and signs inside each other
_LARGEST = 10**15
_PLACES = 6

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)|(?P<sign>[-+*/()%]))")


def evaluate(expression: str) -> Fraction | None:
    """The value of an expression of decimals, + - * /, parentheses, and % after a number ("20%" is one fifth).

    Returns:
        The exact value; None where it is not such an expression, divides by zero, is longer than 200 characters,
        nested deeper than 32, or beyond 10^15.
    """
    tokens = _tokens(expression)
    if tokens is None:
        return None
    try:
        reader = _Reader(tokens)
        value = reader.sum()
        reader.expect_end()
    except (_NonsenseError, ZeroDivisionError):
        return None
    return value if abs(value) <= _LARGEST else None


def written(value: Fraction) -> str:
    """A value as decimals, without needless zeros, rounded to six places where it has more."""
    places = Decimal(1).scaleb(-_PLACES)
    # 15 digits before the point and 6 behind it are exact in Decimal's 28; one division rounds once.
    rounded = (Decimal(value.numerator) / Decimal(value.denominator)).quantize(places, ROUND_HALF_EVEN)
    text = f"{rounded:f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def result_of(text: str) -> str | None:
    """What belongs behind the `=` that `text` ends with, the closing signs included; None where nothing can be said.

    >>> result_of("He has 16 - 3 - 4 = <<16-3-4=")
    '9>>'
    """
    if not text.endswith("="):
        return None
    _, opening, expression = text[:-1].rpartition(OPENING)
    if not opening or CLOSING in expression:
        return None
    value = evaluate(expression)
    return None if value is None else written(value) + CLOSING


class _NonsenseError(Exception):
    """The tokens are no expression."""


def _tokens(expression: str) -> list[str] | None:
    text = expression.rstrip()
    if not text or len(text) > LONGEST or not text.isascii():
        return None
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match["number"] or match["sign"])
        position = match.end()
    return tokens


class _Reader:
    """Recursive descent: a sum of products of signed values."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def sum(self) -> Fraction:
        value = self._product()
        while (sign := self._take("+-")) is not None:
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise _NonsenseError

    def _product(self) -> Fraction:
        value = self._signed()
        while (sign := self._take("*/")) is not None:
            factor = self._signed()
            value = value * factor if sign == "*" else value / factor
        return value

    def _signed(self) -> Fraction:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NonsenseError
        sign = self._take("+-")
        value = self._percent() if sign is None else self._signed()
        self._depth -= 1
        return -value if sign == "-" else value

    def _percent(self) -> Fraction:
        value = self._atom()
        while self._take("%") is not None:
            value /= 100
        return value

    def _atom(self) -> Fraction:
        if self._take("(") is not None:
            value = self.sum()
            if self._take(")") is None:
                raise _NonsenseError
            return value
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if not token[:1].isdigit() and not token.startswith("."):
            raise _NonsenseError
        self._at += 1
        return Fraction(token.replace(",", ""))

    def _take(self, signs: str) -> str | None:
        """The next token if it is one of `signs`."""
        if self._at < len(self._tokens) and self._tokens[self._at] in signs:
            self._at += 1
            return self._tokens[self._at - 1]
        return None
