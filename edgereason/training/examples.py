"""Reading training data: JSON lines, every line checked before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.files import json_lines
from edgereason.problems.records import Problem

TEXTS = ("question", "guidance", "answer", "result")
"""The fields that a line can have besides `choices`; others, such as an `id`, are left alone."""


@dataclass(frozen=True)
class Example:
    """One line of training data.

    Attributes:
        question: The question alone, without its choices.
        guidance: A solution guidance or rationale; None where the line has none.
        answer: The text that answers it; None where the line has none.
        result: What the answer comes to: a number, a choice's letter; None where the line has none.
        choices: Of a multiple-choice question, A first.
        line: Its number in the file, from 1.
    """

    question: str
    guidance: str | None = None
    answer: str | None = None
    result: str | None = None
    choices: tuple[str, ...] = ()
    line: int = 0

    @property
    def text(self) -> str:
        """What a model is asked: the question, and its choices as lettered lines, as evaluation asks it."""
        return Problem(self.question, "", "choice", self.choices).text.strip()  # so the pipeline does

    def to_json(self) -> dict[str, Any]:
        """The line without what it does not have."""
        found = {name: getattr(self, name) for name in TEXTS}
        texts = {name: value for name, value in found.items() if value is not None}
        return {**texts, **({"choices": list(self.choices)} if self.choices else {})}


def read_examples(path: Path, required: Collection[str]) -> list[Example]:
    """Read a file of JSON lines; blank lines are skipped, and spaces around guidance, answers and results.

    Args:
        path: Each line an object with `question` and some of `guidance`, `answer`, `result` (strings) and `choices`
            (a list of strings).
        required: The fields that every line has to have, besides `question`.

    Raises:
        UsageError: the file is missing or has no examples, or a line is no JSON object, lacks a field, or has one that
            is empty or of another type; the message names the line.
    """
    examples = [_parse(line, number, path, {"question", *required}) for number, line in json_lines(path)]
    if not examples:
        raise UsageError(f"{path} has no examples.", "Give a file with one JSON object per line.")
    return examples


def _parse(line: bytes, number: int, path: Path, required: Collection[str]) -> Example:
    where = f"{path}:{number}"
    wanted = ", ".join(f'"{name}"' for name in TEXTS if name in required)
    cure = f"Each line has to be a JSON object with {wanted}; correct this one or take it out."
    try:
        value = json.loads(line)
    except ValueError as error:  # includes text that is not UTF-8
        raise UsageError(f"{where} is not JSON: {error}.", cure) from error
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a JSON object.", cure)
    for name in TEXTS:
        if name in required and name not in value:
            raise UsageError(f'{where} has no "{name}".', cure)
        if name in value and not isinstance(value[name], str):
            raise UsageError(f'{where}: "{name}" is not a string.', cure)
        if name in required and not value[name].strip():
            raise UsageError(f'{where}: "{name}" is empty.', cure)
    choices = value.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise UsageError(f'{where}: "choices" is not a list of texts.', cure)
    # An optional field that is there and empty says the same as one that is not there.
    texts = {name: value[name].strip() for name in TEXTS if value.get(name, "").strip()}
    return Example(**{**texts, "question": value["question"]}, choices=tuple(choices), line=number)
