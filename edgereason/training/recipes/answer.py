"""Sci-CoT's answer inference (arXiv 2308.04679): from question, options and rationale to the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.text.calculator import result_of
from edgereason.text.prompts import ANSWER, Prompt
from edgereason.training.examples import Example, read_examples
from edgereason.training.lisa import LisaSettings
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.supervised import Sample, train_stage
from edgereason.training.trainer import Schedule
from edgereason.training.training_base import TrainingBase

PROMPT = replace(ANSWER, history=False)
"""Each question stands alone: the adapter never sees a conversation."""


def train_answer(
    data: Path,
    base: TrainingBase,
    out: Path,
    schedule: Schedule,
    method: LoraSettings | LisaSettings,
    prompt: Prompt = PROMPT,
    alone: float = 0.0,
    max_length: int | None = None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train the answer stage's adapter.

    Args:
        data: JSON lines with `question` and `answer`; with `guidance`, the rationale or guidance that the prompt shows,
            and `choices` of multiple-choice questions. A line without guidance is learned as a question alone.
        out: The adapter's directory.
        prompt: It gets `calculator` where an answer of the data has computations as `<<16-3-4=9>>`.
        alone: The share of the lines with guidance that are learned without it, chosen by the schedule's seed, so that
            the model can answer without one too.
        method, max_length, resume, force: See `supervised.train_stage`.

    Raises:
        UsageError: the data cannot be used, `alone` is no share, or see `supervised.train_stage`.
    """
    if not 0 <= alone <= 1:
        raise UsageError(f"alone is {alone}.", "Give a share from 0 to 1.")
    examples = read_examples(data, ("answer",))
    prompt = replace(prompt, calculator=prompt.calculator or any(computes(each.answer or "") for each in examples))
    samples = list(_samples(examples, alone, schedule.seed))
    train_stage("answer", prompt, samples, data, base, out, schedule, method, max_length, resume, force)


def computes(answer: str) -> bool:
    """Whether an answer has a computation that the calculator writes the same: `<<16-3-4=9>>`."""
    ends = (match.end() for match in re.finditer("=", answer))
    results = ((end, result_of(answer[:end])) for end in ends)
    return any(result is not None and answer.startswith(result, end) for end, result in results)


def _samples(examples: Sequence[Example], alone: float, seed: int) -> Iterator[Sample]:
    rng = random.Random(f"{seed}/alone")
    for example in examples:
        hidden = rng.random() < alone
        yield Sample(example.text, None if hidden else example.guidance, example.answer or "", example.line)
