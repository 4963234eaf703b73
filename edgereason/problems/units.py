"""Units of results: which of them are the same, whatever their plural, symbol or abbreviation."""

from __future__ import annotations

import re

Unit = tuple[str, ...]
"""Its words, each in one spelling: ("red", "apple"), ("meter", "per", "second"); empty for none."""

PERCENT = "%"

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that stand between a number and its unit and are part of the number."""

_SPELLINGS = """\
% percent percentage pct
dollar $ usd us$ buck
cent ¢
euro € eur
yen ¥ jpy
rupee ₹ inr rs
degree ° deg
celsius °c c
fahrenheit °f f
square sq
cubic cu
millimeter mm millimetre
centimeter cm centimetre
meter m metre
kilometer km kilometre
inch in
foot ft feet
yard yd
mile mi
milligram mg
gram g
kilogram kg kilo
ounce oz
pound lb £ gbp
milliliter ml millilitre
liter l litre
gallon gal
quart qt
second s sec
minute min
hour h hr
week wk
month mo
year yr
watt w
kilowatt kw
volt v
joule j
kilobyte kb
megabyte mb
gigabyte gb
terabyte tb
child children
person people
man men
woman women
mouse mice
tooth teeth
goose geese
leaf leaves
loaf loaves
half halves
shelf shelves
knife knives
"""
_SPELLING = {word: words.split()[0] for words in _SPELLINGS.splitlines() for word in words.split()}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that say nothing about what is counted.
_FILLERS = _set("all altogether exactly extra her his left more my only remaining still the their total")
# With one of these, a number is no number with a unit: 7 or more, 3rd, 7 is odd, 7 squared, 7 at least.
_NO_UNIT = _set(
    "and are but by is less nor not or out plus minus st nd rd th to was x"
    " over squared cubed factorial below under above remainder least most fewer minimum maximum"
)
# Behind the unit these begin what is said of it: 5 liters of paint, $5 each, 12 years old.
_PREPOSITIONS = _set("of in for on from at with")
_DETAILS = _PREPOSITIONS | _set(
    "each than who that which because since ago apart away deep heavy high later long off old tall thick wide"
)
_CONSTANTS = _set("e i pi π sqrt log ln sin cos tan exp")
# These change what is measured, and so both sides have to have them.
_MEASURING = _set("square cubic")
_MULTIPLES = _set("dozen pair half third quarter fourth fifth")
_LETTERS = frozenset("mgshlLCFWVJ")  # other single letters are variables
_MAXIMUM_WORDS = 8
_POWER = re.compile(r"\b([^\W\d]+)\^?([23])\b")
_POWERS = {"2": "square", "3": "cubic"}
_RATES = {"mph": "mile per hour", "kph": "kilometer per hour"}


def read_unit(text: str, adjacent: bool) -> Unit | None:
    """The unit that a text names; None if it is none.

    Args:
        text: What follows a number.
        adjacent: Whether no space is between: `2xy` is a product, `5km` has a unit.
    """
    words = re.findall(r"[^\s/-]+|/", text.strip(" ."))
    if not words or len(words) > _MAXIMUM_WORDS:
        return None
    first = words[1] if words[0] == "/" and len(words) > 1 else words[0]
    if first not in ("a", "an") and len(first) == 1 and first.isalpha() and first not in _LETTERS:
        return None  # a variable
    if adjacent and len(first) == 2 and first.isalpha() and first.casefold() not in _SPELLING:
        return None  # a product of variables
    lower = ["per" if word in ("/", "a", "an") else word.casefold().strip(".") for word in words]
    if "left" in lower[:-1] and lower[lower.index("left") + 1] == "over":
        lower.remove("over")
    if _NO_UNIT.intersection(lower) or lower[0] in _CONSTANTS:
        return None
    if lower == ["in"]:
        return ("inch",)
    joined = _POWER.sub(_power, " ".join(lower).replace("per cent", PERCENT))
    joined = re.sub(r"(?:degrees?|°) (?=c|f)", "", joined)
    joined = " ".join(_RATES.get(word, word) for word in joined.split())
    unit = tuple(_spelled(word) for word in joined.split() if word not in _FILLERS)
    return described(unit[:1], unit[1:]) if unit and unit[0] in _MULTIPLES else unit


def described(unit: Unit, words: Unit) -> Unit:
    """A unit with what is measured in it: dozens of eggs, dollars of profit."""
    return unit + (("of",) if words and words[0] not in _DETAILS | {"per"} else ()) + words


def _power(match: re.Match[str]) -> str:
    return f"{_POWERS[match[2]]} {match[1]}"


def _spelled(word: str) -> str:
    if word in _DETAILS:
        return word  # "in" is no inch here
    return _SPELLING.get(word) or _SPELLING.get(singular := _singular(word)) or singular


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:ch|sh|x|ss|o)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us")) else word


def compatible(one: Unit, other: Unit) -> bool:
    """Whether two units are the same as far as both of them say: what only one side says does not matter.

    >>> compatible(("apple",), ()), compatible(("red", "apple"), ("apple",)), compatible(("apple",), ("pear",))
    (True, True, False)
    """
    (counted, per, details), (counted_too, per_too, details_too) = _parts(one), _parts(other)
    if (per and per_too and per != per_too) or not (details <= details_too or details >= details_too):
        return False
    if not counted or not counted_too:
        return _MULTIPLES.isdisjoint(counted + counted_too)
    short, long = sorted((counted, counted_too), key=len)
    return long[-len(short) :] == short and _MEASURING.isdisjoint(long[: -len(short)])


def _parts(unit: Unit) -> tuple[Unit, Unit, frozenset[str]]:
    """What is counted, per what, and the words of what else is said of it."""
    parts: dict[str, list[str]] = {"counted": [], "per": [], "details": []}
    part = "counted"
    for word in unit:
        part = "per" if word == "per" else "details" if word in _DETAILS else part
        if word != "per" and word not in _PREPOSITIONS:
            parts[part].append(word)
    return tuple(parts["counted"]), tuple(parts["per"]), frozenset(parts["details"])
