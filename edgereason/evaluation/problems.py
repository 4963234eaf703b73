"""Reading problems with known results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.prompts import FINAL_MARKER, final_result


@dataclass(frozen=True)
class Problem:
    """A question and the result that is right."""

    question: str
    expected: str


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read JSON lines of `question` and `result`, or of `question` and an `answer` that ends in `#### result`.

    Raises:
        UsageError: the file is missing or empty, or a line is not a problem; the message names the line.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Give a JSON lines file of problems.")
    lines = path.read_text(encoding="utf-8").splitlines()
    problems = [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not problems or (limit is not None and limit < 1):
        raise UsageError(f"{path} leaves no problem to ask.", "Give a file with problems, and a --limit of 1 or more.")
    return problems[:limit]


def _parse(line: str, where: str) -> Problem:
    cure = 'Each line has to be a JSON object with "question" and "result", or an "answer" that ends in "#### 42".'
    try:
        value = json.loads(line)
        question = value["question"]
        expected = value["result"] if "result" in value else value["answer"]
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{where} is not a problem: {type(error).__name__} {error}.", cure) from error
    text = str(expected)
    expected = (final_result(text) or "") if FINAL_MARKER in text else text
    if not isinstance(question, str) or not question.strip() or not expected.strip():
        raise UsageError(f"{where} is not a problem: its question or result is empty.", cure)
    return Problem(question, expected)
