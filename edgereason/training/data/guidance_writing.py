"""From questions with known answers to training data: what a teacher writes, and what of it is worth learning.

`OUT.samples` beside the result holds everything that the teacher has written, a line for each question, and is what an
interrupted run continues from. The result is computed from it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.files import new_file, read_json_lines
from edgereason.training.data.duplicates import NEAR, Duplicates
from edgereason.training.data.leaks import leak
from edgereason.training.data.teacher import TeacherRequest, TextKind, open_teacher
from edgereason.training.examples import Example, read_examples


@dataclass
class Statistics:
    """What became of a teacher's texts.

    Attributes:
        questions: How many there are.
        samples: Texts that the teacher wrote for them.
        dropped: Texts that were not kept, by reason.
        kept: Lines of the result.
        served: Questions that have at least one of them.
    """

    questions: int = 0
    samples: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    served: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "dropped": dict(self.dropped.most_common())}


def write_guidance(
    source: Path,
    out: Path,
    teacher: str,
    request: TeacherRequest,
    keep: int = 1,
    near: float = NEAR,
    threads: int | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Have a teacher write guidance or rationales for questions, and keep what a student should learn from.

    Args:
        source: JSON lines with `question` and `result`, and `choices` of multiple-choice questions.
        out: JSON lines of training data: each question's fields and `guidance`; replaced where it exists. What an
            interrupted run has left in `out`.samples is not asked for again.
        teacher: See `open_teacher`.
        request: What is asked for.
        keep: Maximum texts per question; the first good ones.
        near: See `Duplicates`.
        report: Called with the questions done and their number.

    Raises:
        UsageError: a file cannot be used, `out`.samples comes from other questions or another request, or the
            teacher is none.
        BundleError, EngineError: the teacher cannot be opened, or fails.
    """
    if keep < 1 or not near > 0:
        raise UsageError(f"keep is {keep} and near {near}.", "Give a keep of 1 or more, and a near above 0.")
    examples = read_examples(source, ("result",))
    samples = out.with_name(f"{out.name}.samples")
    if out.exists() and out.samefile(source):
        raise UsageError(f"{out} is the input file itself.", "Give another output file.")
    _write_samples(examples, samples, teacher, request, threads, report or (lambda done, total: None))
    statistics = Statistics(questions=len(examples))
    with new_file(out) as partial, partial.open("w", encoding="utf-8") as file:
        for example in select(examples, read_samples(samples), request.kind, keep, near, statistics):
            file.write(json.dumps(example.to_json(), ensure_ascii=False) + "\n")
    return statistics


def select(
    examples: Sequence[Example],
    texts: Sequence[Sequence[str]],
    kind: TextKind,
    keep: int,
    near: float,
    statistics: Statistics,
) -> Iterator[Example]:
    """The examples with those of their texts that are neither leaks nor duplicates; fills in `statistics`."""
    duplicates = Duplicates(near)
    for example, written in zip(examples, texts, strict=True):
        found = 0
        for text in written:
            statistics.samples += 1
            reason = leak(text, example.text, example.result, example.choices, computing=kind == "rationale")
            reason = reason or ("surplus" if found == keep else None)
            if reason is None and (twin := duplicates.add(text)):
                reason = f"{twin} duplicate"
            if reason:
                statistics.dropped[reason] += 1
                continue
            found += 1
            yield replace(example, guidance=text.strip())
        statistics.kept += found
        statistics.served += found > 0


def _write_samples(
    examples: Sequence[Example],
    path: Path,
    source: str,
    request: TeacherRequest,
    threads: int | None,
    report: Callable[[int, int], None],
) -> None:
    """Ask for the texts of those examples that `path` does not have yet."""
    done, kept = _take_up(path, examples, source, request)
    report(done, len(examples))
    if done == len(examples):
        return
    with (
        closing(open_teacher(source, request.kind, threads)) as teacher,
        path.open("ab") as file,
        closing(teacher.write(examples[done:], request)) as written,
    ):
        file.truncate(kept)
        for example, texts in zip(examples[done:], written, strict=True):
            record = {**_head(example, source, request), "samples": texts}
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            file.flush()
            done += 1
            report(done, len(examples))


def _head(example: Example, source: str, request: TeacherRequest) -> dict[str, Any]:
    """What a line of samples was asked with."""
    asked = {"kind": request.kind, "temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    return {"line": example.line, "question": example.question, "teacher": source, **asked, "count": request.samples}


def _take_up(path: Path, examples: Sequence[Example], source: str, request: TeacherRequest) -> tuple[int, int]:
    """How many examples have their texts, and how many bytes these are; a last line that was cut does not count."""
    if not path.exists():
        return 0, 0
    done = size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            head = _head(examples[done], source, request) if done < len(examples) else None
            if head is None or not _belongs(line, head):
                raise UsageError(
                    f"Line {done + 1} of {path} was written for another question, teacher or request.",
                    "Use the same settings, or delete this file.",
                )
            done, size = done + 1, size + len(line)
    return done, size


def _belongs(line: bytes, head: dict[str, Any]) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and {name: value.get(name) for name in head} == head


def read_samples(path: Path) -> list[list[str]]:
    """The texts of every line of a complete file of samples."""
    return [value["samples"] for _, value in read_json_lines(path)]
