"""What a solution guidance must not say: numbers that the question does not have, and the answer.

Guidance that computes gives the answer model its result to copy, right or wrong, and teaches the guidance model
arithmetic, which it is there to avoid (Solution Guidance Fine-Tuning, arXiv 2412.09906).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from decimal import Decimal

from edgereason.problems.equivalence import same_result
from edgereason.problems.final_result import FINAL_MARKER
from edgereason.problems.result_values import Clock, Quantity, quantities, read_value

_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_ORDINAL = re.compile(r"\b\d+(?:st|nd|rd|th)\b", re.IGNORECASE)
_LIST_MARK = re.compile(r"^\s*(?:step\s+)?\d{1,2}\s*[.):]\s", re.IGNORECASE | re.MULTILINE)
_STEP_NAME = re.compile(r"\b(?:step|part|stage)s?\s+\d{1,2}\b", re.IGNORECASE)
_COMPUTATION = re.compile(r"\d[%)]?\s*[-+*/\u00d7\u00f7x]\s*[($]?\d[\d.,%)]*\s*=")

_TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}
# The lines are what the words are worth.
_NAMES = """\
zero none
one once single
two twice double doubled doubles couple pair pairs both half halved halves
three triple tripled thrice third thirds
four quarter quarters
five
six
seven week weeks weekly
eight
nine
ten
eleven
twelve dozen dozens
thirteen
fourteen
fifteen
sixteen
seventeen
eighteen
nineteen"""
_UNITS = {name: value for value, names in enumerate(_NAMES.splitlines()) for name in names.split()}
_LARGE = {"hundred": 100, "thousand": 1000} | {name: value for value, name in _TENS.items()}
_VALUES = (
    _UNITS
    | _LARGE
    | {f"{tens}-{unit}": ten + value for ten, tens in _TENS.items() for unit, value in _UNITS.items() if 0 < value < 10}
)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?")
_PERCENT = re.compile(r"%|\bper ?cent", re.IGNORECASE)

_ALWAYS = frozenset(map(Decimal, (0, 1, 2)))
"""Numbers that guidance needs whatever the question says: one of them, two groups, none left."""

_SMALL = 12
"""Up to here a number in words may count steps, groups or people: three kinds of fruit."""


def leak(
    guidance: str, question: str, result: str | None = None, choices: Collection[str] = (), computing: bool = False
) -> str | None:
    """What guidance tells that it should not; None where it is clean.

    Numbers are compared by their values: 1,200 is 1200.0. Those of the question may be repeated, whether it has them in
    digits or in words (up to ninety-nine, and twice, half, dozen, week and the like), and so may 0, 1 and 2, and
    numbers in words up to twelve, which count steps and kinds; where the question has percentages, 100. Numbers of
    steps and ordinals (`3.` before a line, `step 3`, `3rd`) are no numbers of the problem. The result may not be said
    in any way, unless it is among the question's numbers or 0, 1 and 2.

    Args:
        guidance: What is looked at.
        question: With its choices, where it has some.
        result: The question's known result: a number, a text, or of multiple choice its letter.
        choices: The choices' texts, A first.
        computing: Whether it may compute, as a rationale may; the result it may not say even so.

    Returns:
        One of "empty", "result marker", "answer", "computation", "number".
    """
    if not guidance.strip():
        return "empty"
    if FINAL_MARKER in guidance:
        return "result marker"
    if result is not None and (_names(guidance, result) if choices else _says(guidance, question, result)):
        return "answer"
    if computing:
        return None
    if _COMPUTATION.search(guidance):
        return "computation"
    plain = _without_marks(guidance)
    known = _values(question) | _ALWAYS | ({Decimal(100)} if _PERCENT.search(question) else set())
    told = _digits(plain) | {value for value in _words(plain) if value > _SMALL}
    return None if told <= known else "number"


def _says(guidance: str, question: str, result: str) -> bool:
    """Whether guidance says a result that the question does not."""
    value = read_value(result)
    if isinstance(value, Quantity) and value.value in _ALWAYS:
        return False
    return _states(_without_marks(guidance), result) and not _states(question, result)


def _states(text: str, result: str) -> bool:
    """Whether a text has a result: a number in any form, anything else in its own words."""
    if not isinstance(read_value(result), Quantity | Clock) and _has_words(text, result):
        return True
    return any(same_result(said, result) for said in {*quantities(text), *map(str, _values(text))})


def _names(guidance: str, letter: str) -> bool:
    """Whether guidance names the right choice by its letter; the choices' words it may weigh against each other."""
    right = re.escape(letter.strip())
    patterns = (
        rf"\({right}\)",
        rf"(?i:\banswer\s+(?:is|must be|would be))\s*:?\s*{right}\b",
        rf"(?i:\boption)\s+{right}\b",
    )
    return any(re.search(pattern, guidance) for pattern in patterns)


def _has_words(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words.strip().casefold())}\b", text.casefold()) is not None


def _without_marks(text: str) -> str:
    """A text without the numbers that count its own steps, and without ordinals."""
    for pattern in (_LIST_MARK, _STEP_NAME, _ORDINAL):
        text = pattern.sub(" ", text)
    return text


def _digits(text: str) -> set[Decimal]:
    """The values of the numbers that a text has in digits."""
    return {Decimal(found.replace(",", "")) for found in _NUMBER.findall(text)}


def _values(text: str) -> set[Decimal]:
    """The values of all numbers of a text, in digits and in words."""
    return _digits(text) | _words(text)


def _words(text: str) -> set[Decimal]:
    """The values of the numbers that a text has in words."""
    return {Decimal(_VALUES[word]) for word in _WORD.findall(text.casefold()) if word in _VALUES}
