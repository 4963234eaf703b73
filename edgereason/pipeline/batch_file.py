"""A file of questions to a file of results, line by line: what was interrupted goes on where it stopped.

Both files are JSON lines. An input line is an object with a `question`, and an `id` if it likes. For each there is one
output line, in the same order: `line` is the input line's number from 1, `id` its id; then follow the result's fields
or, where the question failed, `error`. A line is written in one piece, so that an interrupted file is a valid one.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import FileIO
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from edgereason.errors import EdgeReasonError, UsageError
from edgereason.pipeline.batch import Outcome
from edgereason.pipeline.reasoner import Reasoner
from edgereason.pipeline.two_stages import check_text

_START = b'{"line": '


@dataclass
class Progress:
    """How far a file is.

    Attributes:
        total: Lines of the input that are not blank.
        before: Lines that earlier runs have answered.
        answered: Lines that this run has answered.
        failed: Lines of this run whose result is an error.
        tokens: New tokens of this run, of the samples that became results.
    """

    total: int
    before: int = 0
    answered: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def done(self) -> int:
        return self.before + self.answered + self.failed


@dataclass(frozen=True)
class _Line:
    """An input line: its question, or why it has none."""

    number: int
    head: dict[str, Any]
    question: str = ""
    error: UsageError | None = None


def answer_file(
    reasoner: Reasoner,
    source: Path,
    out: Path,
    *,
    report: Callable[[Progress], object] | None = None,
    **arguments: Any,
) -> Progress:
    """Answer the questions of `source`, each in a line of `out`; lines that `out` has already are left as they are.

    Args:
        reasoner: Answers them.
        source: JSON lines with `question`.
        out: JSON lines; may hold the beginning of the results from a run before.
        report: Called after each line.
        arguments: Those of `Reasoner.batch`.

    Raises:
        UsageError: `source` cannot be read, `out` cannot be written or holds something else than results of `source`,
            or an argument is out of its range.
    """
    if not source.is_file():
        raise UsageError(f"{source} does not exist.", "Give a JSON lines file of questions.")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the file with the questions.", "Give another file for the results.")
    progress = Progress(total=sum(1 for _ in _read(source)))
    kept, progress.before = _results(source, out)
    taken: deque[_Line] = deque()
    outcomes = reasoner.batch(_questions(source, progress.before, taken), **arguments)
    try:
        with closing(outcomes), out.open("ab", buffering=0) as file:
            file.truncate(kept)
            for line, fields in _answers(outcomes, taken):
                _write_whole(file, json.dumps({**line.head, **fields}, ensure_ascii=False).encode() + b"\n")
                _count(progress, fields)
                if report:
                    report(progress)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}.", "Is there a directory, and space?") from error
    return progress


def _write_whole(file: FileIO, text: bytes) -> None:
    """Write all of a line: where the disk is nearly full, one write takes a part of it without an error."""
    left = memoryview(text)
    while left:
        left = left[file.write(left) :]


def _read(source: Path) -> Iterator[_Line]:
    with source.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield _parse(number, text)


def _parse(number: int, text: bytes) -> _Line:
    head: dict[str, Any] = {"line": number}
    try:
        value = json.loads(text)
    except ValueError as error:  # includes text that is not UTF-8
        return _Line(number, head, error=UsageError(f"This line is not JSON: {error}."))
    if isinstance(value, dict) and "id" in value:
        head["id"] = value["id"]
        try:
            check_text("id", json.dumps(value["id"], ensure_ascii=False))
        except UsageError as error:
            return _Line(number, {"line": number}, error=error)
    question = value.get("question") if isinstance(value, dict) else None
    if not isinstance(question, str):
        return _Line(number, head, error=UsageError("This line has no question.", 'Write {"question": "..."}.'))
    try:
        check_text("question", question)
    except UsageError as error:
        return _Line(number, head, error=error)
    return _Line(number, head, question)


def _questions(source: Path, before: int, taken: deque[_Line]) -> Iterator[str]:
    """The questions behind the first `before` lines. Lines are added to `taken` as they are read, bad ones too."""
    for line in islice(_read(source), before, None):
        taken.append(line)
        if line.error is None:
            yield line.question


def _answers(outcomes: Iterable[Outcome], taken: deque[_Line]) -> Iterator[tuple[_Line, dict[str, Any]]]:
    """Each line with the fields of what came of it, bad lines in their places between the questions' outcomes."""
    for outcome in outcomes:
        yield from _bad_lines(taken)
        line = taken.popleft()
        if outcome.error is not None:
            yield line, {"question": line.question, **_failure(outcome.error)}
        elif outcome.result is not None:
            yield line, outcome.result.to_json()
    yield from _bad_lines(taken)


def _bad_lines(taken: deque[_Line]) -> Iterator[tuple[_Line, dict[str, Any]]]:
    while taken and taken[0].error is not None:
        line = taken.popleft()
        if line.error is not None:
            yield line, _failure(line.error)


def _failure(error: EdgeReasonError) -> dict[str, Any]:
    return {"error": error.what, "cure": error.cure} if error.cure else {"error": error.what}


def _count(progress: Progress, outcome: dict[str, Any]) -> None:
    if "error" in outcome:
        progress.failed += 1
        return
    progress.answered += 1
    progress.tokens += sum(outcome["timings"][stage]["new_tokens"] for stage in ("guidance", "answer"))


def _results(source: Path, out: Path) -> tuple[int, int]:
    """How many bytes and lines at the beginning of `out` are whole results of `source`.

    Raises:
        UsageError: `out` holds anything else, but for a last line that was cut.
    """
    if not out.exists():
        return 0, 0
    kept = count = 0
    with out.open("rb") as file:
        for result, line in zip_longest(file, _read(source)):
            if result is None:
                break
            whole = result.endswith(b"\n")
            if not (_belongs(result, line) if whole else _START.startswith(result[: len(_START)])):
                raise UsageError(
                    f"Line {count + 1} of {out} is no result of {source}.", "Give another file, or delete this one."
                )
            if whole:
                kept, count = kept + len(result), count + 1
    return kept, count


def _belongs(result: bytes, line: _Line | None) -> bool:
    try:
        value = json.loads(result)
    except ValueError:
        return False
    if line is None or not isinstance(value, dict) or value.get("line") != line.number:
        return False
    return line.error is not None or str(value.get("question")).strip() == line.question.strip()
