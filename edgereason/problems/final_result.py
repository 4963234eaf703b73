"""The final result that an answer ends with."""

from __future__ import annotations

import re

from edgereason.problems.result_values import Text, quantities, read_value

FINAL_MARKER = "####"

_MARKERS = re.compile(r"#{4,}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_SAID = re.compile(
    r"\b(?:answer|final result)[*\s]*(?:(?:is|was|(?:must|should|would) be)\b\s*:?|:)[*\s]*(?=\S)", re.IGNORECASE
)
_NUMBERED = re.compile(r"\d+[.)]\s+[^\W\d]")  # a heading
_BEGINS_WITH_A_NUMBER = re.compile(r"[^\w\s]{0,3}\d")


def final_result(answer: str) -> str | None:
    """The result that an answer ends with; None without one.

    It is what the answer marks last, after `####` or in `\\boxed{}`, or else the last number, fraction, percentage or
    time of day, without its currency and unit.
    """
    if stated := stated_result(answer):
        return stated
    found = quantities(answer)
    return found[-1] if found else None


def stated_result(answer: str) -> str | None:
    """The result that an answer marks as such: what follows its last `####`, or is in a `\\boxed{}` after that.

    A line of words that has a result after it is a heading: `#### Conclusion`.
    """
    boxed = [*_BOXED.finditer(answer)]
    _, *sections = _MARKERS.split(answer[boxed[-1].end() if boxed else 0 :])
    later, result_later = False, False  # whether text, and a result, follow
    for section in reversed(sections):
        line, _, rest = section.strip().partition("\n")
        later, result_later = later or bool(rest.strip()), result_later or has_result(rest)
        heading = result_later or (later and line.rstrip("* \r").endswith(":"))
        if line and (not heading or _is_value(line)):
            return line.strip()
        later, result_later = later or bool(line), result_later or has_result(line)
    return (boxed[-1][1].strip() if boxed else "") or None


def said_result(answer: str) -> str | None:
    """The rest of the line after an answer's last "the answer is" or "Answer:"."""
    said = [*_SAID.finditer(answer)]
    return answer[said[-1].end() :].splitlines()[0].strip("* ") if said else None


def has_result(text: str) -> bool:
    """Whether a text has a number, or says what the answer is."""
    return bool(re.search(r"\d", text) or _SAID.search(text))


def begins_with_a_number(text: str) -> bool:
    """Whether a text begins with digits, whatever sign or currency is before them."""
    return bool(_BEGINS_WITH_A_NUMBER.match(text))


def _is_value(line: str) -> bool:
    return not _NUMBERED.match(line) and (begins_with_a_number(line) or not isinstance(read_value(line), Text))
