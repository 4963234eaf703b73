"""Finding the result in an answer's text.

The rules are those of lm-evaluation-harness's tasks (lm_eval/tasks/gsm8k, bbh and mmlu's `flan_cot` variants), so that
figures can be compared: a number after `####`, or else the last number; a choice's letter after "answer is", or else
the last letter in parentheses. They would find 1 in `#### 1/2`, and 10 in `#### 10:30`: where what follows `####` is
more than a plain number, or where something else is expected, it is taken whole.
"""

from __future__ import annotations

import re
import string

from edgereason.problems.final_result import FINAL_MARKER, final_result, stated_result
from edgereason.problems.records import Problem
from edgereason.problems.result_values import Clock, Equation, Quantity, Text, plain_signs, read_value

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_PLAIN = re.compile(r"[-+]?[$€£¥₹]?[-+]?[\d,]*\.?\d*\.?")
_STATED = re.compile(r"\b(?:answer|result) is:?\s*(\S.*)", re.IGNORECASE)
_ANSWER_IS = re.compile(r"answer is:?\s*\(?([A-Za-z]+)\b", re.IGNORECASE)
_LEADING = re.compile(r"\s*\(?([A-Za-z])\s*(?:[).:,\n]|\Z)")  # "B", "B) a mall", "(B)", but not "A mall"
_IN_PARENTHESES = re.compile(r"\(([A-Z])\)")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MEANING = {"true": "yes", "false": "no"}


def extract(problem: Problem, answer: str) -> str | None:
    """What an answer gives as the result of a problem, in the form of `Problem.expected`; None where it gives none.

    Of code, the function's source: the first fenced block, or the whole answer.
    """
    if problem.kind == "code":
        block = _CODE_BLOCK.search(answer)
        return (block[1] if block else answer) or None
    if problem.kind == "choice":
        return _choice(problem, answer)
    if problem.kind == "yes-no":
        return _yes_or_no(answer)
    return _number(answer) if _is_plain(problem.expected) else _whole(problem.expected, answer)


def last_number(answer: str) -> str | None:
    """The number after `####`, or else the last one in the text; without currency signs and commas.

    >>> last_number("16 - 7 = 9, so she makes $1,218.00 a day.")
    '1218.00'
    """
    strict = _STRICT.findall(answer)
    found = [strict[-1]] if strict else _FLEXIBLE.findall(answer)
    cleaned = [re.sub(r"[,$]", "", text).rstrip(".") for text in found]
    numbers = [text for text in cleaned if any(character.isdigit() for character in text)]
    return numbers[-1] if numbers else None


def _is_plain(text: str) -> bool:
    """Whether a result is nothing but digits, for which the harness's rules are made."""
    return bool(_PLAIN.fullmatch(plain_signs(text).strip())) and isinstance(read_value(text), Quantity)


def _number(answer: str) -> str | None:
    """The harness's number, unless the answer's result is a value that is more than digits."""
    found = final_result(answer)
    if found is None or _is_plain(found) or isinstance(read_value(found), Text):
        return last_number(answer.replace("\u2212", "-"))
    return found


def _whole(expected: str, answer: str) -> str | None:
    """What an answer states as its result; without a mark of it a number of it, its "answer is", or its last line."""
    if (stated := stated_result(answer)) is not None:
        return stated
    value = read_value(expected)
    if isinstance(value.value if isinstance(value, Equation) else value, Quantity | Clock):
        return final_result(answer)
    said = _STATED.findall(answer)
    lines = answer.replace(FINAL_MARKER, "").strip().splitlines()
    return (said[-1] if said else lines[-1]).strip() if lines else None


def _choice(problem: Problem, answer: str) -> str | None:
    letters = string.ascii_uppercase[: len(problem.choices)]
    _, marker, after = answer.rpartition(FINAL_MARKER)
    candidates = [_LEADING.match(after)] if marker else []
    candidates += [*_ANSWER_IS.finditer(answer)][-1:] + [*_IN_PARENTHESES.finditer(answer)][-1:]
    for match in [*candidates, _LEADING.match(answer)]:
        if match and len(match[1]) == 1 and match[1].upper() in letters:
            return str(match[1]).upper()
    # Without a letter, the choice whose words the answer has, if only one's.
    words = answer.casefold()
    named = [letter for letter, text in zip(letters, problem.choices, strict=False) if text.casefold() in words]
    return named[0] if len(named) == 1 else None


def _yes_or_no(answer: str) -> str | None:
    _, marker, after = answer.rpartition(FINAL_MARKER)
    stated = _ANSWER_IS.findall(answer)[-1:]
    for text in ([after] if marker else []) + stated + [answer]:
        found = [str(word).lower() for word in _YES_NO.findall(text)]
        if found:
            # An answer that begins with its verdict goes on with reasons, any other ends with it.
            first = _YES_NO.match(text.strip())
            word = found[0] if first else found[-1]
            return _MEANING.get(word, word)
    return None
