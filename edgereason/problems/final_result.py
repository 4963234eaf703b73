"""The final result that an answer ends with, and when two of them are the same."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

FINAL_MARKER = "####"

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def final_result(answer: str) -> str | None:
    """The result that an answer ends with: what follows its last `####`, or else its last number; None without one."""
    before, marker, after = answer.rpartition(FINAL_MARKER)
    if marker and after.strip():
        return after.strip().splitlines()[0].strip()
    numbers = _NUMBER.findall(before or after)
    return numbers[-1].replace("$", "").replace(",", "") if numbers else None


def comparable(final: str) -> Decimal | str:
    """A final result in the form in which two are the same: a number whatever its currency sign, commas and zeros; or
    its text, whatever its case."""
    text = final.strip()
    try:
        value = Decimal(text.lstrip("$").rstrip(".%").replace(",", ""))
    except InvalidOperation:
        return text.casefold()
    return value if value.is_finite() else text.casefold()
