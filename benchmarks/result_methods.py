"""The published methods on a small base, each from the same few demonstrations, by the commands that users have."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from result_lines import Make, digest, exported

from edgereason.errors import EdgeReasonError
from edgereason.files import new_file
from edgereason.problems.word_problems import KNOWN, Pool, problems
from edgereason.problems.worked_problem import WorkedProblem, question_key

DEMONSTRATIONS = 64
"""Enough for the form of an answer; with a few hundred, every method gets nearly everything right here."""
SEED = 0
TWO_STEPS = Pool(structure for structure in KNOWN if structure.steps == 2)
# Learning rates are five times the recipes' defaults: the base is small.
_SUPERVISED = ("--epochs", "3", "--learning-rate", "1e-3")
_LONGER = ("--epochs", "6", "--learning-rate", "1e-3")
_SAMPLED = ("--samples", "16", "--temperature", "1.0", "--max-new-tokens", "128")
_REFINE = ("--epochs", "3", "--learning-rate", "1e-4", *_SAMPLED)
_PROCESS = ("--iterations", "2", "--rollouts", "4", "--epochs", "1", "--learning-rate", "2.5e-4", *_SAMPLED)


def _worked(problem: WorkedProblem) -> str:
    """The computations of an answer, without the line that states the result."""
    return problem.answer.rpartition("\n")[0]


def _stated(problem: WorkedProblem) -> str:
    return problem.answer.rpartition("\n")[2]


Text = Callable[[WorkedProblem], str]
_ANSWER_TEXTS: dict[str, Text] = {"answer": lambda problem: problem.answer}
_GUIDANCE_TEXTS: dict[str, Text] = {"guidance": lambda problem: problem.guidance}
_RATIONALE_TEXTS: dict[str, Text] = {"guidance": _worked}
_INFERENCE_TEXTS: dict[str, Text] = {"guidance": _worked, "answer": _stated}


@dataclass(frozen=True)
class Training:
    """One adapter's training.

    Attributes:
        name: What its directory begins with.
        recipe: The command, `edgereason train RECIPE`.
        fields: What a line of its data holds besides the question.
        options: Further options of the command.
        after: The adapter that it starts from, for recipes that go on with one.
    """

    name: str
    recipe: str
    fields: dict[str, Text]
    options: Sequence[str] = _SUPERVISED
    after: Training | None = None

    def command(self) -> str:
        """What a reader types, but for paths."""
        return " ".join(["edgereason train", self.recipe, *self.options])


SUPERVISED = Training("supervised", "answer", _ANSWER_TEXTS)
LONGER = Training("longer", "answer", _ANSWER_TEXTS, _LONGER)
REFINED = Training("refined", "refine", _ANSWER_TEXTS, _REFINE, SUPERVISED)
PROCESSED = Training("processed", "process", _ANSWER_TEXTS, _PROCESS, SUPERVISED)
GUIDANCE = Training("guidance", "guidance", _GUIDANCE_TEXTS)
GUIDED = Training("guided", "answer", _GUIDANCE_TEXTS | _ANSWER_TEXTS)
# The base has read a last line behind all computations; after three epochs a rationale does not end before it.
RATIONALE = Training("rationale", "guidance", _RATIONALE_TEXTS, _LONGER)
INFERENCE = Training("inference", "answer", _INFERENCE_TEXTS)


def held_out(count: int) -> list[WorkedProblem]:
    """Problems of two steps to measure with."""
    return [*islice(problems(f"{SEED}/methods/held out", structures=TWO_STEPS), count)]


def demonstrations(exclude: Sequence[WorkedProblem]) -> list[WorkedProblem]:
    """Problems of two steps to learn from, none of them among those to measure with."""
    keys = {question_key(problem.question) for problem in exclude}
    return [*islice(problems(f"{SEED}/methods/demonstrations", keys, TWO_STEPS), DEMONSTRATIONS)]


def trained_pair(base: Path, guidance: Training, answer: Training, shown: Sequence[WorkedProblem]) -> Make:
    """The bundle of two trained adapters in 16 bits: here the methods count, not the rounding."""
    return partial(_make, base, guidance, answer, shown)


def _make(base: Path, guidance: Training, answer: Training, shown: Sequence[WorkedProblem], work: Path) -> Path:
    adapters = [train(training, base, shown, work) for training in (guidance, answer)]
    return exported(base, *adapters, bits=16)(work)


def train(training: Training, base: Path, shown: Sequence[WorkedProblem], work: Path) -> Path:
    """The adapter of a training; it is trained where it is not there yet, and goes on where it was interrupted.

    Raises:
        EdgeReasonError: the training fails; what it says went to standard error.
    """
    after = None if training.after is None else train(training.after, base, shown, work)
    data = "".join(json.dumps({"question": each.question, **_texts(training, each)}) + "\n" for each in shown)
    settings = (training.recipe, *training.options, "" if after is None else after.name)
    out = work / "adapters" / f"{training.name}-{digest(data.encode(), repr(settings).encode())}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.with_name(f"{out.name}.jsonl")
        with new_file(file) as partial_file:
            partial_file.write_text(data, encoding="utf-8")
        command = [sys.executable, "-m", "edgereason", "train", training.recipe, str(file), "--base", str(base)]
        command += ["--out", str(out), "--seed", str(SEED), "--resume", *training.options]
        command += [] if after is None else ["--adapter", str(after)]
        if subprocess.run(command, check=False).returncode != 0:
            raise EdgeReasonError(f"The training {training.name} failed.", f"Run it alone: {' '.join(command)}")
    return out


def _texts(training: Training, problem: WorkedProblem) -> dict[str, str]:
    return {name: text(problem) for name, text in training.fields.items()}
