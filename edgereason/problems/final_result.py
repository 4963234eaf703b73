"""The final result that an answer ends with."""

from __future__ import annotations

import re

from edgereason.problems.result_values import quantities

FINAL_MARKER = "####"

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")


def final_result(answer: str) -> str | None:
    """The result that an answer ends with; None without one.

    It is what follows the last `####`, or else what is in the last `\\boxed{}`, or else the last number, fraction,
    percentage or time of day, without its currency and unit.
    """
    if stated := stated_result(answer):
        return stated
    before, _, after = answer.rpartition(FINAL_MARKER)
    found = quantities(before or after)
    return found[-1] if found else None


def stated_result(answer: str) -> str | None:
    """The result that an answer marks as such: what follows its last `####`, or is in its last `\\boxed{}`."""
    _, marker, after = answer.rpartition(FINAL_MARKER)
    if marker and after.strip():
        return after.strip().splitlines()[0].strip()
    boxed = [found.strip() for found in _BOXED.findall(answer)]
    return (boxed[-1] if boxed else "") or None
