"""Public data sets as training data: the forms that evaluation reads, with what they have of solutions.

| data set | guidance | answer |
| --- | --- | --- |
| GSM8K | none | the solution, with its calculator annotations |
| GSM8K, socratic | the sub-questions, a line each | the solution |
| CommonsenseQA, ARC | none | the right choice, `#### ` and its letter |
| StrategyQA, SVAMP | none | `#### ` and the result |

Where there is no guidance, a teacher may write it: the lines are what `write_guidance` reads.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from edgereason.errors import UsageError
from edgereason.files import new_file
from edgereason.problems.final_result import FINAL_MARKER
from edgereason.problems.records import Problem, read_entries
from edgereason.training.examples import Example

_SOCRATIC = " ** "


def convert(source: Path, out: Path, limit: int | None = None) -> int:
    """Write a data set's problems as training data; returns how many lines that are.

    Args:
        source: GSM8K (plain or socratic), SVAMP, CommonsenseQA, ARC or StrategyQA, as they come.
        out: JSON lines with `question`, `answer`, `result`, and `choices` and `guidance` where the data set has them.
        limit: Take the first problems only.

    Raises:
        UsageError: `source` is missing, empty or no such data set, or holds problems of programming.
    """
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the input file itself.", "Give another output file.")
    examples = [_example(problem, entry, source) for problem, entry in read_entries(source)][:limit]
    if not examples:
        raise UsageError(
            f"{source} leaves nothing to convert.", "Give a file with problems, and a --limit of 1 or more."
        )
    with new_file(out) as partial, partial.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example.to_json(), ensure_ascii=False) + "\n")
    return len(examples)


def _example(problem: Problem, entry: dict[str, Any], source: Path) -> Example:
    if problem.kind == "code":
        raise UsageError(f"{source} holds problems of programming.", "Give a data set whose answers are results.")
    guidance, answer = _solution(entry.get("answer"))
    if answer is None:
        chosen = problem.choices[string.ascii_uppercase.index(problem.expected)] if problem.choices else ""
        answer = f"{chosen}\n{FINAL_MARKER} {problem.expected}".lstrip()
    return Example(problem.question, guidance, answer, problem.expected, problem.choices)


def _solution(answer: object) -> tuple[str | None, str | None]:
    """The sub-questions and the worked solution of GSM8K's answers; None for what there is not."""
    if not isinstance(answer, str) or "\n" not in answer or FINAL_MARKER not in answer:
        return None, None
    lines = [line.partition(_SOCRATIC) for line in answer.splitlines()]
    asked = [before for before, mark, _ in lines if mark]
    worked = [after if mark else before for before, mark, after in lines]
    return "\n".join(asked) or None, "\n".join(worked)
