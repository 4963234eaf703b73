"""Attempts: the reasoning paths that a model samples for questions with known results, and which of them are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.problems.equivalence import same_result
from edgereason.problems.extraction import extract
from edgereason.problems.final_result import FINAL_MARKER, final_result
from edgereason.problems.records import Kind, Problem
from edgereason.text.prompts import Prompt
from edgereason.training.chat_tokens import Chat
from edgereason.training.examples import Example, read_examples
from edgereason.training.sampling.text_sampler import (
    Opening,
    ReportProgress,
    SampledText,
    SamplingSettings,
    TextSampler,
    sample_texts,
)


@dataclass(frozen=True)
class TrainingQuestion:
    """A question with its result.

    Attributes:
        prompt: The rendered chat, up to where the answer begins.
        problem: What the result has to be.
    """

    prompt: str
    problem: Problem

    def solved_by(self, text: SampledText, written: str = "") -> bool:
        """Whether the answer that begins with `written` and goes on with `text` is complete and right."""
        found = extract(self.problem, written + text.text) if text.ended else None
        return found is not None and same_result(found, self.problem.expected)


@dataclass(frozen=True)
class Attempt:
    """One way from a question to a result.

    Attributes:
        question: Its place among the questions.
        text: What the model wrote.
        right: Whether that has the right result.
        ended: Whether the model ended it; otherwise it ran out of room.
        times: How often it was sampled.
        score: What a process reward model gives it, from 0 to 1; None without one.
    """

    question: int
    text: str
    right: bool
    ended: bool = True
    times: int = 1
    score: float | None = None


def read_training_questions(data: Path, chat: Chat, prompt: Prompt, context: int) -> list[TrainingQuestion]:
    """Read questions with results, and render them as inference does.

    Args:
        data: JSON lines with `question`, and a `result` or an `answer` that ends in `#### result`; with `guidance`,
            what the prompt shows, and `choices` of multiple-choice questions.
        chat: The base's.
        prompt: The answer stage's.
        context: Maximum sequence length of the base.

    Raises:
        UsageError: a line cannot be used, or leaves no room for an answer; the message names it.
    """
    return [_question(example, data, chat, prompt, context) for example in read_examples(data, ())]


def _question(example: Example, data: Path, chat: Chat, prompt: Prompt, context: int) -> TrainingQuestion:
    rendered = chat.prompt(prompt, example.text, example.guidance)
    if (length := len(chat.tokenizer.encode(rendered))) >= context:
        raise UsageError(
            f"{data}:{example.line} gives a prompt of {length:,} tokens, which fills the context of {context:,}.",
            "Shorten the line or take it out.",
        )
    kind: Kind = "choice" if example.choices else "result"
    return TrainingQuestion(rendered, Problem(example.question, _result(example, data), kind, example.choices))


def _result(example: Example, data: Path) -> str:
    result = example.result
    if result is None and FINAL_MARKER in (example.answer or ""):
        result = final_result(example.answer or "")
    if not result:
        raise UsageError(
            f"{data}:{example.line} does not say what the right result is.",
            'Give the line a "result", or an "answer" that ends in "#### 42".',
        )
    return result


def attempt(
    sampler: TextSampler,
    questions: Sequence[TrainingQuestion],
    settings: SamplingSettings,
    seed: int,
    path: Path,
    progress: ReportProgress,
) -> list[Attempt]:
    """Sample answers to every question; those that are the same are one attempt.

    Args:
        path: Where they are kept; see `sample_texts`, as for the rest.
    """
    openings = [Opening(question.prompt) for question in questions]
    texts = sample_texts(sampler, openings, settings, seed, path, progress)
    return list(_distinct(questions, texts))


def _distinct(questions: Sequence[TrainingQuestion], texts: Sequence[Sequence[SampledText]]) -> Iterator[Attempt]:
    for number, (question, written) in enumerate(zip(questions, texts, strict=True)):
        for text, times in Counter(written).items():
            yield Attempt(number, text.text, question.solved_by(text), text.ended, times)


def by_question(attempts: Sequence[Attempt]) -> dict[int, list[Attempt]]:
    """The attempts of each question."""
    found: dict[int, list[Attempt]] = {}
    for each in attempts:
        found.setdefault(each.question, []).append(each)
    return found
