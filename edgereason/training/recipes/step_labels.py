"""How good each step of an attempt is: the share of simulated continuations that reach the right result.

The automatic process annotation of Math-Shepherd (arXiv 2312.08935), with its soft labels, as Self-Iterative Process
Feedback uses it (arXiv 2412.08393). A step is a line of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgereason.training.sampling.attempts import Attempt, TrainingQuestion
from edgereason.training.sampling.text_sampler import (
    Opening,
    ReportProgress,
    SamplingSettings,
    TextSampler,
    sample_texts,
)


@dataclass(frozen=True)
class LabelledAnswer:
    """An answer, and how good each of its steps is.

    Attributes:
        prompt: The rendered chat, up to where the answer begins.
        text: The answer, of at least one step.
        labels: For each of `steps(text)` the share of continuations after it that are right, from 0 to 1.
    """

    prompt: str
    text: str
    labels: tuple[float, ...]


def steps(text: str) -> list[str]:
    """The steps of an answer: its lines with their ends, blank ones with the line before them.

    >>> steps("3 + 4 = 7\\n\\n#### 7")
    ['3 + 4 = 7\\n\\n', '#### 7']
    """
    found: list[str] = []
    for line in text.splitlines(keepends=True):
        if found and not line.strip():
            found[-1] += line
        else:
            found.append(line)
    return found


def label(
    sampler: TextSampler,
    questions: Sequence[TrainingQuestion],
    attempts: Sequence[Attempt],
    sampling: SamplingSettings,
    seed: int,
    path: Path,
    progress: ReportProgress,
) -> list[LabelledAnswer]:
    """Label the steps of attempts by `sampling.count` continuations of what is written up to the end of each.

    After an attempt's last step nothing is left to simulate: its label is whether the attempt is right. A beginning
    that several attempts share is continued once for all of them.

    Args:
        sampler: With the adapter that the attempts come from.
        questions: What `Attempt.question` counts.
        attempts: Those without any text are left out.
        path: Where the continuations are kept; see `sample_texts`, as for the rest.
    """
    begun = {attempt: _beginnings(attempt.text) for attempt in attempts if attempt.text.strip()}
    places = dict.fromkeys(
        (attempt.question, written) for attempt, beginnings in begun.items() for written in beginnings[:-1]
    )
    openings = [Opening(questions[number].prompt, written) for number, written in places]
    continued = sample_texts(sampler, openings, sampling, seed, path, progress)
    shares = {
        (number, written): sum(questions[number].solved_by(text, written) for text in texts) / len(texts)
        for (number, written), texts in zip(places, continued, strict=True)
    }
    return [
        LabelledAnswer(
            questions[attempt.question].prompt,
            attempt.text,
            (*(shares[attempt.question, written] for written in beginnings[:-1]), float(attempt.right)),
        )
        for attempt, beginnings in begun.items()
    ]


def _beginnings(text: str) -> list[str]:
    """What is written at the end of each step."""
    found, written = [], ""
    for step in steps(text):
        written += step
        found.append(written)
    return found
