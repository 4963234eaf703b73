"""The questions for verification: those that ship with the package, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.files import read_json_lines

DEFAULT_QUESTIONS_FILE = Path(__file__).parent / "questions.txt"
"""One question per line: word problems as the example model solves them, and others of many kinds."""

DEFAULT_COUNT = 64
"""The number of shipped questions that are asked."""


@dataclass(frozen=True)
class VerificationQuestion:
    """A question, and the answer stage's guidance; None: the reference writes the guidance."""

    text: str
    guidance: str | None = None


def read_verification_questions(path: Path | None = None) -> list[VerificationQuestion]:
    """Questions from a file: `.jsonl` with `question` and, where wanted, `guidance`; any other has one per line.

    Args:
        path: The file, read to its end; None for the first `DEFAULT_COUNT` of those that ship with the package.

    Raises:
        UsageError: the file is missing, empty, or a line is not a question.
    """
    source = DEFAULT_QUESTIONS_FILE if path is None else path
    questions = list(_records(source) if source.suffix == ".jsonl" else _lines(source))
    if not questions:
        raise UsageError(f"{source} has no questions.", "Give a file of questions, one per line.")
    return questions[:DEFAULT_COUNT] if path is None else questions


def _lines(source: Path) -> Iterator[VerificationQuestion]:
    try:
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}.", "Give a file of questions, one per line.") from error
    return (VerificationQuestion(line.strip()) for line in lines if line.strip())


def _records(source: Path) -> Iterator[VerificationQuestion]:
    for where, value in read_json_lines(source):
        yield _parse(value, where)


def _parse(value: Any, where: str) -> VerificationQuestion:
    if not isinstance(value, dict) or "question" not in value:
        raise UsageError(f"{where} is not a question: it has no field question.", _FORM)
    question, guidance = value["question"], value.get("guidance")
    if not isinstance(question, str) or not question.strip() or not isinstance(guidance, str | None):
        raise UsageError(f"{where} is not a question: its fields have to be strings.", _FORM)
    return VerificationQuestion(question.strip(), guidance)


_FORM = 'Each line has to be a JSON object with "question" and, optionally, "guidance".'
