"""Finding the result in an answer's text.

The rules are those of lm-evaluation-harness's tasks (lm_eval/tasks/gsm8k, bbh and mmlu's `flan_cot` variants), so that
figures can be compared: a number after `####`, or else the last number; a choice's letter after "answer is", or else
the last letter in parentheses. They would find 1 in `#### 1/2`, 10 in `#### 10:30`, A in "the answer is a mall", and
nothing in `\\boxed{7}`: what an answer states as its result is read as what it is, and goes before its last number.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from edgereason.problems.equivalence import same_result
from edgereason.problems.final_result import begins_with_a_number, final_result, said_result, stated_result
from edgereason.problems.records import Problem
from edgereason.problems.result_values import (
    Clock,
    Equation,
    Quantity,
    Range,
    Several,
    Text,
    plain_signs,
    read_value,
    unwrapped,
)

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_PLAIN = re.compile(r"[-+]?[$€£¥₹]?[-+]?[\d,]*\.?\d*\.?")
_CLAUSE = re.compile(r"[,;:.!]\s|\s\(|\s(?:because|since|as|so|is|are)\b|(?<=[a-z]) (?:of|in|for|on|from)\b")
_LETTER = re.compile(
    r"""
    [\s*$(\[{"'`]*(?:(?i:the\s+)?(?i:option|choice|letter|answer)\b[\s:*$(]*)?
    (?:
      (?P<alone>[A-Za-z])\s*(?:[).:,;*$\]}\n]|\Z)  # "B", "B) a mall", "(B)", but not "A mall"
    | (?P<capital>[B-HJ-Z]|A(?=\s+(?:because|since|rather|not|as)\b))\s
    )
    """,
    re.VERBOSE,
)
_CHOSEN = (
    re.compile(r"\b(?:answer|option|choice)\b[*\s]*(?:(?:is|was|(?:must|should|would) be)\b\s*:?|:)", re.IGNORECASE),
    re.compile(r"(?:\b(?:is|be|choose|pick|select|option|choice)|'s)\b(?!\s*\()", re.IGNORECASE),
)
_IN_PARENTHESES = re.compile(r"\(([A-Z])\)")
_YES_NO = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_NOT_TRUE = re.compile(r"(?:\bnot|n['\u2019]t)\s+(true|false)\b", re.IGNORECASE)
_CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_MEANING = {"true": "yes", "false": "no"}
_MAXIMUM_WORDS = 40


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
    return _number(answer) if _is_plain(problem.expected) else _other(problem.expected, answer)


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
    marked = stated_result(answer)
    found = marked or said_result(answer) or final_result(answer)
    if found is None or _is_plain(found):
        return last_number(plain_signs(found or answer))
    if not isinstance(read_value(found), Text):
        return found
    for part in (found.rpartition("=")[2], _CLAUSE.split(found, maxsplit=1)[0]):  # 8 apples, not 9
        if isinstance(read_value(part), Quantity):
            number = last_number(part)
            return number if number and same_result(number, part) else part
    # What is marked and begins with a number, but is another value, such as 7 squared, is no number with words around.
    return marked if marked and begins_with_a_number(marked) else last_number(plain_signs(answer))


def _other(expected: str, answer: str) -> str | None:
    """A result that is no plain number: stated, or else a value of the expected one's kind, or the last line."""
    if _YES_NO.fullmatch(verdict := expected.strip().casefold()):
        found = _yes_or_no(answer)
        return verdict if found == _MEANING.get(verdict, verdict) else found
    if (stated := stated_result(answer)) is not None:
        return stated
    value = read_value(expected)
    if isinstance(value.value if isinstance(value, Equation) else value, Quantity | Clock):
        return final_result(answer)
    lines = answer.strip("# \n").splitlines()
    line = said_result(answer) or (lines[-1].strip() if lines else None)
    return next((end for end in _ends(line) if _alike(end, expected)), line) if line else None


def _ends(line: str) -> Iterator[str]:
    """A line, and what remains of it without its first words."""
    words = line.split()[-_MAXIMUM_WORDS:]
    return (" ".join(words[place:]) for place in range(len(words)))


def _alike(one: str, other: str) -> bool:
    """Whether both are lists, or ranges, or the same but for their digits, such as ratios."""
    value, value_too = read_value(one), read_value(other)
    if isinstance(value, Text) and isinstance(value_too, Text):
        shape, shape_too = (re.sub(r"\d+", "0", each.text) for each in (value, value_too))
        return shape == shape_too and "0" in shape
    return type(value) is type(value_too) and isinstance(value, Several | Range)


def _choice(problem: Problem, answer: str) -> str | None:
    letters = string.ascii_uppercase[: len(problem.choices)]
    for line in (stated_result(answer), said_result(answer)):
        if line and (found := _letter(unwrapped(line), letters) or _named(problem, line)):
            return found
    for chosen in _CHOSEN:
        after = [letter for match in chosen.finditer(answer) if (letter := _letter(answer, letters, match.end()))]
        if after:
            return after[-1]
    in_parentheses = [letter for letter in _IN_PARENTHESES.findall(answer)[-1:] if letter in letters]
    if in_parentheses:
        return str(in_parentheses[0])
    last_line = answer.strip().rpartition("\n")[2]
    return _letter(answer, letters) or _letter(last_line, letters) or _named(problem, answer)


def _letter(text: str, letters: str, begin: int = 0) -> str | None:
    """The choice's letter that a text begins with."""
    match = _LETTER.match(text, begin)
    letter = (match["alone"] or match["capital"]).upper() if match else None
    return letter if letter and letter in letters else None


def _named(problem: Problem, text: str) -> str | None:
    """The choice whose words a text has, if only one's."""
    words = text.casefold()
    pairs = zip(string.ascii_uppercase, problem.choices, strict=False)
    named = [letter for letter, choice in pairs if choice.casefold() in words]
    return named[0] if len(named) == 1 else None


def _yes_or_no(answer: str) -> str | None:
    for text in (stated_result(answer), said_result(answer), answer):
        plain = _NOT_TRUE.sub(lambda match: " no" if match[1].lower() == "true" else " yes", text or "")
        if found := [str(word).lower() for word in _YES_NO.findall(plain)]:
            # An answer that begins with its verdict goes on with reasons, any other ends with it.
            word = found[0] if _YES_NO.match(plain.strip("* \n")) else found[-1]
            return _MEANING.get(word, word)
    return None
