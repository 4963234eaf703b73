"""The questions that bundles are verified with: those that ship with the package, or a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError

SHIPPED = Path(__file__).parent / "questions.txt"
"""One question per line: word problems as the example model solves them, and others of many kinds."""

DEFAULT_COUNT = 64
"""How many of the shipped questions are asked."""


@dataclass(frozen=True)
class Question:
    """A question; the answer stage's guidance where it is given, else the reference writes one."""

    text: str
    guidance: str | None = None


def read_questions(path: Path | None = None) -> list[Question]:
    """Questions from a file: `.jsonl` with `question` and, where wanted, `guidance`; any other has one per line.

    Args:
        path: The file, read to its end; None for the first `DEFAULT_COUNT` of those that ship with the package.

    Raises:
        UsageError: the file is missing, empty, or a line is not a question.
    """
    source = SHIPPED if path is None else path
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}.", "Give a file of questions, one per line.") from error
    parse = _parse if source.suffix == ".jsonl" else lambda line, where: Question(line)
    questions = [parse(line, f"{source}:{number}") for number, line in enumerate(lines, start=1) if line]
    if not questions:
        raise UsageError(f"{source} has no questions.", "Give a file of questions, one per line.")
    return questions[:DEFAULT_COUNT] if path is None else questions


def _parse(line: str, where: str) -> Question:
    try:
        value = json.loads(line)
        question, guidance = value["question"], value.get("guidance")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{where} is not a question: {type(error).__name__} {error}.", _FORM) from error
    if not isinstance(question, str) or not question.strip() or not isinstance(guidance, str | None):
        raise UsageError(f"{where} is not a question: its fields have to be texts.", _FORM)
    return Question(question.strip(), guidance)


_FORM = 'Each line has to be a JSON object with "question" and, where wanted, "guidance".'
