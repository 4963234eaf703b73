"""Reading problems with known results, in the forms that data sets come in."""

from __future__ import annotations

import gzip
import json
import string
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgereason.errors import UsageError
from edgereason.files import read_json_lines
from edgereason.problems.final_result import FINAL_MARKER, final_result

Kind = Literal["result", "choice", "yes-no", "code"]


@dataclass(frozen=True)
class Problem:
    """A question and what is right.

    Attributes:
        question: The question alone, without its choices.
        expected: The right result; of a choice its letter, of code the program of assertions that it has to pass.
        kind: What sort of result is asked for: a number or text, one of `choices`, yes or no, or a Python function.
        choices: The choices' texts, A first.
        structure: What group of problems this one belongs to, for figures per group; empty where it says none.
    """

    question: str
    expected: str
    kind: Kind = "result"
    choices: tuple[str, ...] = ()
    structure: str = ""

    @property
    def text(self) -> str:
        """What a model is asked: the question, and its choices as lettered lines."""
        lines = (f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, self.choices, strict=False))
        return "\n".join([self.question, *lines])


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read problems from JSON lines (also gzipped) or a JSON file; their fields tell whose form they have.

    GSM8K (plain and socratic), SVAMP, CommonsenseQA, ARC, StrategyQA (BIG-bench's and its own), HumanEval, MBPP, and
    our own: `question` with `result`, or with an `answer` that ends in `#### result`.

    Raises:
        UsageError: the file is missing or empty, or an entry is not a problem; the message names its line.
    """
    problems = [problem for problem, _ in read_entries(path)]
    if not problems or (limit is not None and limit < 1):
        raise UsageError(f"{path} leaves no problem to ask.", "Give a file with problems, and a --limit of 1 or more.")
    return problems[:limit]


def read_entries(path: Path) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """Every problem of a file with the entry that it was read from, see `read_problems`.

    Raises:
        UsageError: the file is missing, or an entry is not a problem; the message names its line.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist.", "Give a JSON lines file of problems.")
    return ((_parse(entry, where), entry) for where, entry in _entries(path))


_CURE = 'Each line has to be a JSON object with "question" and "result", or an "answer" that ends in "#### 42".'


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Every entry and where it stands."""
    whole = _whole(path)
    if isinstance(whole, dict) and isinstance(whole.get("examples"), list):  # BIG-bench
        whole = whole["examples"]
    if isinstance(whole, list):
        return ((f"{path}, entry {number}", entry) for number, entry in enumerate(whole, start=1))
    return read_json_lines(path)


def _whole(path: Path) -> Any:
    """The value of a JSON file; None where it holds something else, such as JSON lines."""
    try:
        return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    except (OSError, EOFError, ValueError, zlib.error):
        return None


def _parse(entry: Any, where: str) -> Problem:
    try:
        problem = _read(entry)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UsageError(f"{where} is not a problem: {type(error).__name__} {error}.", _CURE) from error
    if not problem.question.strip() or not problem.expected.strip():
        raise UsageError(f"{where} is not a problem: its question or result is empty.", _CURE)
    return problem


def _read(entry: Any) -> Problem:
    if not isinstance(entry, dict):
        raise TypeError("it is no object")
    if "Body" in entry:
        return _svamp(entry)
    if "answerKey" in entry:
        return _multiple_choice(entry)
    if "target_scores" in entry:
        right = max(entry["target_scores"], key=entry["target_scores"].__getitem__)
        return Problem(_text(entry["input"]), str(right).lower(), "yes-no")
    if "entry_point" in entry:
        program = f"{entry['test']}\n\ncheck({entry['entry_point']})\n"
        return Problem(_text(entry["prompt"]), program, "code")
    if "test_list" in entry:
        return _mbpp(entry)
    if isinstance(entry.get("answer"), bool):  # StrategyQA's own form
        return Problem(_text(entry["question"]), "yes" if entry["answer"] else "no", "yes-no")
    expected = str(entry["result"] if "result" in entry else entry["answer"])
    if FINAL_MARKER in expected:
        expected = final_result(expected) or ""
    return Problem(_text(entry["question"]), expected, structure=str(entry.get("structure", "")))


def _svamp(entry: dict[str, Any]) -> Problem:
    body = _text(entry["Body"]).strip()
    question = f"{body} {entry['Question']}" if body.endswith((".", ",", "?", "!")) else f"{body}. {entry['Question']}"
    answer = float(entry["Answer"])
    return Problem(question, str(int(answer) if answer.is_integer() else answer), structure=str(entry.get("Type", "")))


def _multiple_choice(entry: dict[str, Any]) -> Problem:
    """CommonsenseQA and ARC, as their authors and as the hub have them."""
    question, choices = entry["question"], entry.get("choices")
    if isinstance(question, dict):
        question, choices = question["stem"], question["choices"]
    if isinstance(choices, dict):
        choices = [
            {"label": label, "text": text} for label, text in zip(choices["label"], choices["text"], strict=True)
        ]
    labels = [choice["label"] for choice in choices or ()]
    # Some of ARC's choices are numbered: their place decides.
    letter = string.ascii_uppercase[labels.index(entry["answerKey"])]
    return Problem(_text(question), letter, "choice", tuple(_text(choice["text"]) for choice in choices or ()))


def _mbpp(entry: dict[str, Any]) -> Problem:
    setup = [entry["test_setup_code"]] if entry.get("test_setup_code") else entry.get("test_imports", [])
    asked = entry["text"] if "text" in entry else entry["prompt"]
    # MBPP's prompt shows the assertions, since they alone say what the function is called.
    question = "\n".join([_text(asked), "Your code has to pass these tests:", *entry["test_list"]])
    return Problem(question, "\n".join([*setup, *entry["test_list"]]), "code")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
