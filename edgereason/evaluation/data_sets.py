"""Data sets by name: public ones from a directory of their files, and our own problems, made from their seed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.problems import word_problems
from edgereason.problems.arithmetic.generator import held_out_arithmetic
from edgereason.problems.records import Problem, read_problems
from edgereason.problems.worked_problem import WorkedProblem

DIRECTORY = "EDGEREASON_DATA"
"""The environment variable that names the directory of data sets."""

HELD_OUT = 500
"""Problems of each kind, those that the default model's training leaves out."""
_SEED = 0


@dataclass(frozen=True)
class _Public:
    """Where a data set's file is looked up below the directory, who publishes it, and which of its entries count."""

    path: str
    source: str
    part: tuple[int, int] | None = None


# Of sets whose test labels are secret, the part that papers report: CommonsenseQA's development set. MBPP's problems
# 11 to 510 are its test split, those before it are for prompts.
_PUBLIC = {
    "gsm8k": _Public("gsm8k/test.jsonl", "https://github.com/openai/grade-school-math"),
    "gsm8k-socratic": _Public("gsm8k/test_socratic.jsonl", "https://github.com/openai/grade-school-math"),
    "svamp": _Public("svamp/SVAMP.json", "https://github.com/arkilpatel/SVAMP"),
    "commonsenseqa": _Public("commonsenseqa/dev_rand_split.jsonl", "https://www.tau-nlp.org/commonsenseqa"),
    "strategyqa": _Public("strategyqa/task.json", "https://github.com/google/BIG-bench"),
    "arc-easy": _Public("arc/ARC-Easy-Test.jsonl", "https://allenai.org/data/arc"),
    "arc-challenge": _Public("arc/ARC-Challenge-Test.jsonl", "https://allenai.org/data/arc"),
    "humaneval": _Public("humaneval/HumanEval.jsonl.gz", "https://github.com/openai/human-eval"),
    "mbpp": _Public(
        "mbpp/mbpp.jsonl", "https://github.com/google-research/google-research/tree/master/mbpp", (10, 510)
    ),
}

_OWN: dict[str, Callable[[], Iterable[WorkedProblem]]] = {
    "held-out": lambda: word_problems.held_out(_SEED, HELD_OUT),
    "held-out-structures": lambda: word_problems.held_out(_SEED, HELD_OUT, word_problems.UNKNOWN),
    "example": lambda: held_out_arithmetic(_SEED),
}

NAMES = (*_OWN, *_PUBLIC)


def problems_of(data: str | Path, directory: Path | None = None, limit: int | None = None) -> list[Problem]:
    """The problems of a data set or a file.

    Args:
        data: One of `NAMES`, or a file as `read_problems` takes it. What is called like a data set is one.
        directory: Where public data sets lie; `$EDGEREASON_DATA` when left out.
        limit: Takes the first so many.

    Raises:
        UsageError: `data` is neither, its file is missing or is not made of problems, or nothing is left to ask.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}.", "Give 1 or more.")
    if str(data) in _OWN:
        problems = [Problem(each.question, each.result, structure=each.structure) for each in _OWN[str(data)]()]
    elif str(data) in _PUBLIC:
        public = _PUBLIC[str(data)]
        problems = read_problems(_file(str(data), public, directory))[slice(*public.part or (None,))]
    elif Path(data).is_file():
        problems = read_problems(Path(data))
    else:
        raise UsageError(f"{data} is neither a file nor a data set.", f"The data sets are {', '.join(NAMES)}.")
    return problems[:limit]


def _file(name: str, public: _Public, directory: Path | None) -> Path:
    if directory is None and not os.environ.get(DIRECTORY):
        raise UsageError(
            f"{name} is looked up in a directory of data sets, and none is given.",
            f"Give --data-dir, or set {DIRECTORY}; {name} has to be its {public.path}, from {public.source}.",
        )
    path = (directory or Path(os.environ[DIRECTORY])) / public.path
    if not path.is_file():
        raise UsageError(f"{path} does not exist, where {name} should be.", f"Get it from {public.source}.")
    return path
