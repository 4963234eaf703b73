"""What a result's text means: a number with its unit, a time of day, an equation, a list, a formula, or plain text.

`equivalence.py` says when two of them are the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from edgereason.problems.units import PERCENT, SCALES, Unit, described, read_unit


@dataclass(frozen=True)
class Quantity:
    """A number, exactly: `7 apples`, `1/2`, `2 1/2`, `$1,200.50`, `50%`, `1e3`, `.5`."""

    value: Fraction
    unit: Unit = ()


@dataclass(frozen=True)
class Clock:
    """A time of day: `10:30`, `10:30 pm`, `7 o'clock`.

    Attributes:
        hour: As it is written.
        minute: 0 to 59.
        second: 0 to 59.
        half: "a" for a.m., "p" for p.m., empty where it is not said.
    """

    hour: int
    minute: int
    second: int = 0
    half: str = ""

    @property
    def hour_of_day(self) -> int:
        """From 0 to 23 where `half` is known."""
        return self.hour % 12 + 12 * (self.half == "p") if self.half else self.hour


@dataclass(frozen=True)
class Equation:
    """A named value: `x = 3`."""

    name: str
    value: Value


@dataclass(frozen=True)
class Several:
    """Several values: `7 and 8`, `x = 3 or x = -3`, `(1, 2)`, `{1, 2}`, `[0, 1)`.

    Attributes:
        values: In their order.
        brackets: The two around them, or none.
        alternatives: Whether it is a set, or joined by "or": their order does not matter.
    """

    values: tuple[Value, ...]
    brackets: str = ""
    alternatives: bool = False


@dataclass(frozen=True)
class Formula:
    """An expression that only algebra can compare: `2x + 1`, `\\frac{\\sqrt{2}}{2}`; here without its spaces."""

    text: str


@dataclass(frozen=True)
class Text:
    """Words, in lower case, without the spaces, quotes and punctuation around them."""

    text: str


@dataclass(frozen=True)
class Range:
    """From one number to another: `5-10`, `5 to 10 apples`, `between 5 and 10`."""

    low: Quantity
    high: Quantity


Value = Quantity | Clock | Range | Equation | Several | Formula | Text

_LONGEST = 300
"""Characters of a result that can mean more than its words."""

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}|\d{1,3}(?:\ \d{3})+|\d+)(?:\.\d*)?|\.\d+"
_TIMES_POWER = r"10\s*(?:\^|\*\*)\s*[({]?(?P<power>[-+]?\d{1,3})[)}]?"
_QUANTITY = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*(?P<money>(?:(?:US)?\$|[€£¥₹]|USD|EUR|GBP|Rs\.?)?)\s*(?P<inner>[-+]?)\s*
    (?:
      (?P<whole>\d+)(?:\s+and)?\s+(?P<part>\d+)\s*/\s*(?P<parts>\d+)
    | (?P<number>{_NUMBER})(?:e(?P<exponent>[-+]?\d{{1,3}}))?(?:\s*/\s*(?P<below>{_NUMBER}))?
    | (?:(?P<mantissa>{_NUMBER})\s*(?:\u00d7|·|x|\*|\\times|\\cdot)\s*)?{_TIMES_POWER}
    )
    (?P<space>\s*|-(?=[a-z]{{3}}))
    (?P<unit>
      (?:[^\W\d]|[%°$€£¥₹¢]|/\s*[^\W\d]{{2}})[^\d=+*<>|\\{{}}()\[\],;:?!]*
      (?:(?<=[^\W\d])\^?[23])?  # a power
    )?
    (?:\s\([a-z][a-z\ -]{{2,}}\))?  # in words once more
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CLOCK = re.compile(
    r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d))?)?\s*(?:([ap])\.?\s?m\.?|(o'clock))?(?:\s*(?:on the|sharp)\b.*)?",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"(?:from\s+)?(-?[$€£]?[\d.,/]+%?)\s*(?:-|to\b)\s*(\S.*)|between\s+(\S+)\s+and\s+(\S.*)", re.IGNORECASE
)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
_SEPARATOR = re.compile(r"\s*[;,]\s*(?:and|or)\s+|\s+(?:and|or|&)\s+|\s*;\s*|,\s+|,(?!\d{3}(?!\d))", re.IGNORECASE)
_UNIT_AND_NUMBER = re.compile(r"(?<=[^\W\d])(?<!\b(?:in|of|on|at))(?<!\b(?:for|per))(?<!\b(?:from|with))\s*(?=\d)")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d]\w*(?:\(\w\)|['\u2019])?(?: \w+){0,3}")
_LABEL = re.compile(rf"({_NAME.pattern}):\s+(?=[^\w\s]*\d)")
_ANNOUNCING = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|total)", re.I
)
_ANNOUNCED = re.compile(
    rf"{_ANNOUNCING.pattern}\s*(?:is|was|:|=)\s*:?\s*(?=\S)|(?:so|thus|hence|therefore),?\s+(?=\S)"
    r"|(?:about|around|roughly|approximately|approx\.)\s+(?=[^\w\s]*\d)",
    re.IGNORECASE,
)
_MINUS = re.compile(r"(?:minus|negative)\s+(?=[^\w\s]?\d)", re.IGNORECASE)
_ARITHMETIC = re.compile(r"[\d\s.,$€£%+\-*/\u00d7·÷^()]*")
_ALGEBRA = re.compile(
    r"\\[A-Za-z]+|[\^√π≤≥]|\b\d*(?:sqrt|pi)\b|\b\d+[xyzabcnkt][a-z]?\b(?<!th)|[\w)]\s*(?:[+*\u00d7·÷]|[<>]=?)\s*[\w(\-]"
)
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|log|exp)[a-z]?(?![A-Za-z]))[A-Za-z]{3,}")
_ENDS = " \t\n.,;:!?\"'`*_()\u2018\u2019\u201c\u201d"

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\u2002\u2003\t\n\r", " "),
        "\u2044": "/",
        "\u2248": "=",
        "\u2019": "'",
        "\uff05": "%",
        "\uff04": "$",
    }
)
_LATEX = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\\(?:left|right|displaystyle)\b|\\!", ""),
        (r"\\[,;:~ ]|~", " "),
        (r"\\([%$&#{}])", r"\1"),
        (r"\{,\}", ","),
        (r"\\approx\b", "="),
        (r"\^\s*\{(\w)\}", r"^\1"),
        (r"\^\s*\{?\\circ\}?|\\degree\b", "°"),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
    )
]
_WRAPPED = re.compile(
    r"\$\$(.+)\$\$|\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]|\*\*([^*]+)\*\*|`([^`]+)`|[\"'\u201c]([^\"'\u201c\u201d]+)[\"'\u201d]|\\boxed\s*\{(.+)\}",
    re.DOTALL,
)
_EXCLAMATION = re.compile(r"(?:(?<=\d)|(?<=[A-Za-z]{2}))!\Z")  # but no n!
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)(\d))")


def plain_signs(text: str) -> str:
    """A text with one minus sign, one space and one set of digits: `−5` and `½` become `-5` and `1/2`."""
    text = re.sub("[⁰¹²³⁴-⁹⁻⁺]+", lambda run: "^" + "".join(_SUPERSCRIPTS.get(each, "") for each in run[0]), text)
    if text.isascii():
        return text.translate(_CHARACTERS)
    return "".join(map(_plain, text)).translate(_CHARACTERS)


def _plain(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character)
    return character


@lru_cache(maxsize=8192)
def read_value(text: str) -> Value:
    """What a result means; `Text` where it means no more than its words."""
    if len(text) > _LONGEST:
        return _words(text)
    inner = unwrapped(text)
    return _value(inner) or _words(inner or text)


def unwrapped(text: str) -> str:
    """A result without its announcement, Markdown and the LaTeX that only sets it."""
    before, text = None, plain_signs(text).strip()
    while text != before:
        before = text
        text = text[announced.end() :] if (announced := _ANNOUNCED.match(text)) else text
        text = f"-{text[minus.end() :]}" if (minus := _MINUS.match(text)) else text
        if match := _WRAPPED.fullmatch(text):
            text = next(group for group in match.groups() if group is not None)
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        text = text.strip().removesuffix(".") if not text.endswith("..") else text
        text = _EXCLAMATION.sub("", text.strip())
    return text


def _value(text: str) -> Value | None:
    """What a text means; None for mere words."""
    return _clock(text) or _quantity(text) or _range(text) or _several(text) or _equation(text) or _formula(text)


def _quantity(text: str) -> Quantity | None:
    match = _QUANTITY.fullmatch(_FRACTION.sub(r" \1\3/\2\4", text).strip())
    if not match or (match["sign"] and match["inner"]):
        return None
    try:
        value = _number(match)
    except ZeroDivisionError:
        return None
    unit: Unit | None = ()
    if match["unit"]:
        unit = read_unit(match["unit"], adjacent=not match["space"])
    if unit is None or value is None:
        return None
    if unit and unit[0] in SCALES:
        value, unit = value * SCALES[unit[0]], unit[1:]
    if match["money"]:
        unit = described(read_unit(match["money"], adjacent=True) or (), unit) if not _is_money(unit) else unit
    return Quantity(-value if "-" in (match["sign"], match["inner"]) else value, unit)


def _is_money(unit: Unit) -> bool:
    return bool(unit) and unit[0] in ("dollar", "euro", "pound", "yen", "rupee")


def _number(match: re.Match[str]) -> Fraction | None:
    """The value of a `_QUANTITY` without its sign; None where its parts do not make one."""
    if match["whole"]:
        part = Fraction(int(match["part"]), int(match["parts"]))
        return int(match["whole"]) + part if part < 1 else None
    if match["power"]:
        return _decimal(match["mantissa"] or "1") * Fraction(10) ** int(match["power"])
    return _decimal(match["number"]) * Fraction(10) ** int(match["exponent"] or 0) / _decimal(match["below"] or "1")


def _decimal(digits: str) -> Fraction:
    digits = digits.replace(",", "").replace(" ", "")
    return Fraction(f"0{digits}0" if "." in digits else digits)


def _clock(text: str) -> Clock | None:
    match = _CLOCK.fullmatch(text)
    if not match or not any(match.group(2, 4, 5)):
        return None
    half = (match[4] or "").lower()
    if half and not 1 <= int(match[1]) <= 12:
        return None
    return Clock(int(match[1]), int(match[2] or 0), int(match[3] or 0), half)


def _range(text: str) -> Range | None:
    if not (match := _RANGE.fullmatch(text)):
        return None
    low, high = (_quantity(end) for end in match.groups() if end)
    return Range(low, high) if low and high else None


def _several(text: str) -> Value | None:
    inner, brackets = _bracketed(text)
    parts, joints = _split(inner)
    if len(parts) == 1:
        return _value(inner) if brackets in ("()", "{}") else _compound(text)
    values = [value for part in parts if (value := _value(part))]
    if len(values) < len(parts):
        return None
    alternatives = brackets == "{}" or any(_OR.search(joint) for joint in joints)
    return Several(tuple(values), brackets, alternatives)


def _compound(text: str) -> Several | None:
    """A measure in several units, such as `2 hours 30 minutes`."""
    values = [_quantity(part) for part in _UNIT_AND_NUMBER.split(text)]
    measures = tuple(value for value in values if value and value.unit)
    if any(value.unit == ("hour",) for value in measures):  # 2h 30m
        measures = tuple(replace(value, unit=("minute",)) if value.unit == ("meter",) else value for value in measures)
    return Several(measures) if 1 < len(measures) == len(values) else None


def _bracketed(text: str) -> tuple[str, str]:
    """What is inside of the brackets that are around a whole text, and these brackets; else the text, and none."""
    if len(text) > 2 and text[0] in "([{" and text[-1] in ")]}" and all(depth > 0 for depth in [*_depths(text)][:-1]):
        return text[1:-1].strip(), text[0] + text[-1]
    return text, ""


def _depths(text: str) -> Iterator[int]:
    """After each character, how many brackets are open."""
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        yield depth


def _split(text: str) -> tuple[list[str], list[str]]:
    """The parts of a list, and what stands between them; brackets stay whole."""
    depths = [0, *_depths(text)]
    parts, joints, begin = [], [], 0
    for match in _SEPARATOR.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[begin : match.start()].strip())
            joints.append(match[0])
            begin = match.end()
    return [*parts, text[begin:].strip()], joints


def _equation(text: str) -> Value | None:
    if (label := _LABEL.match(text)) and (labelled := _value(text[label.end() :])):
        return Equation(label[1].casefold(), labelled)
    if re.search(r"[<>!]=", text) or "=" not in text:
        return None
    *left, right = (part.strip() for part in text.split("="))
    value = _value(right)
    if value is None:
        return None
    if all(_ARITHMETIC.fullmatch(part) for part in left):
        return value
    if not _NAME.fullmatch(left[0]) or not all(_ARITHMETIC.fullmatch(part) for part in left[1:]):
        return _formula(text) or None
    return value if _ANNOUNCING.fullmatch(left[0]) else Equation(left[0].casefold(), value)


def _formula(text: str) -> Formula | None:
    if not _ALGEBRA.search(text) or _WORD.search(text):
        return None
    return Formula(re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", text))


def _words(text: str) -> Text:
    words = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if _RATIO.fullmatch(words):
        words = words.replace(" ", "")
    return Text(words.strip(_ENDS) or words)


_IN_TEXT = re.compile(
    r"""
    (?<![^\W\d]\^)  # no power of a unit
    (?P<sign>(?<![\w)])-)?[$€£¥₹]?(?P<inner>(?<=[$€£¥₹])-)?
    (?P<digits>
      \d{1,2}:[0-5]\d(?::[0-5]\d)?(?![\d:])(?i:\s?[ap](?:\.\s?m\.|m\b))?  # a time of day
    | (?<![\d.,/])\d{1,2}(?i:\s?[ap](?:\.\s?m\.|m\b)|\ o'clock\b)
    | \d*\\[dt]?frac\{\d+\}\{\d+\}
    | (?:\d+\ )?(?<![/\d])\d+/0*[1-9]\d*(?![/\d])  # a fraction, but no date
    | (?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s?[\u00d7x]\s?10\^\{?-?\d{1,3}\}?|[eE][-+]?\d{1,3}(?!\w))?(?:\s?%)?
    | (?<!\w)\.\d+(?:\s?%)?
    )
    """,
    re.VERBOSE,
)


def quantities(text: str) -> list[str]:
    """Numbers, fractions, percentages and times of day in a text, without currency signs, separators and units.

    >>> quantities("From 10:30 she sells 1,200 cups for $1/2 each, 7% of them at −5 degrees.")
    ['10:30', '1200', '1/2', '7%', '-5']
    """
    return [
        ("-" if match["sign"] or match["inner"] else "") + match["digits"].replace(",", "")
        for match in _IN_TEXT.finditer(plain_signs(text))
    ]


def is_percentage(quantity: Quantity) -> bool:
    """Whether its number is out of a hundred."""
    return quantity.unit[:1] == (PERCENT,)
