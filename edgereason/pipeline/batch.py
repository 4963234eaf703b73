"""Many questions at once: both stages of each, in common passes, and a vote where several answers are asked for."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from edgereason.bundle import STAGES, Stage
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.continuous_batching import Work, Writing, run
from edgereason.decoding.loop import Decoding
from edgereason.decoding.sampling import Sampler
from edgereason.decoding.timings import StageTimings
from edgereason.errors import CancelledError, EdgeReasonError, UsageError
from edgereason.pipeline import voting
from edgereason.pipeline.options import Asking
from edgereason.pipeline.reasoner import Reasoner, check_question
from edgereason.pipeline.results import Result, Timings


@dataclass(frozen=True)
class Outcome:
    """What came of one question of a batch: a result, or the error that ended it.

    Attributes:
        number: Which question, from 0.
        question: As it was given.
        result: None where there is an error.
        error: None where there is a result.
        samples: The results that were voted on, in order; of a single answer that one.
    """

    number: int
    question: str
    result: Result | None = None
    error: EdgeReasonError | None = None
    samples: tuple[Result, ...] = ()


class Outcomes(Iterator[Outcome]):
    """What comes of a batch's questions, in their order. Closing it stops the work and frees its memory."""

    def __init__(self, outcomes: Generator[Outcome, None, None], cancelled: set[int]) -> None:
        self._outcomes = outcomes
        self._cancelled = cancelled

    def __next__(self) -> Outcome:
        return next(self._outcomes)

    def cancel(self, number: int) -> None:
        """Give up one question, in whatever thread; nothing happens where it is answered already.

        Its memory is freed before the next pass, its outcome has a `CancelledError`, and the others go on.

        Args:
            number: Which question, from 0. It may be one that was not taken yet.
        """
        self._cancelled.add(number)

    def close(self) -> None:
        """Stop answering. Closing twice is allowed."""
        self._outcomes.close()


def answer_all(reasoner: Reasoner, questions: Iterable[str], size: int, asking: Asking) -> Outcomes:
    """Answer questions in common passes over the weights; see `Reasoner.batch`."""
    if size < 1:
        raise UsageError(f"size is {size}.", "Give 1 or more.")
    if reasoner.remote is not None or asking.timeout is not None:
        raise UsageError(
            "Many questions at once need an answer model on this machine, and have no timeout.",
            "Ask one by one, or leave the server and the timeout out.",
        )
    samples = voting.sample_stages(asking.stages(reasoner.bundle.stages), asking.samples, asking.temperature)
    cancelled: set[int] = set()
    return Outcomes(_outcomes(reasoner, questions, samples, asking, size, cancelled), cancelled)


def _outcomes(
    reasoner: Reasoner,
    questions: Iterable[str],
    samples: list[dict[str, Stage]],
    asking: Asking,
    size: int,
    cancelled: set[int],
) -> Generator[Outcome, None, None]:
    """In the order of the questions: those that end early wait for the ones before them."""
    asked: dict[int, str] = {}

    def works() -> Iterator[Work[Result]]:
        for number, question in enumerate(questions):
            asked[number] = question
            stems = {name: voting.Stem() for name in STAGES} if len(samples) > 1 else {}
            for stages in samples:
                yield _answer(reasoner, question, asking, stages, stems)

    def given_up(work: int) -> CancelledError | None:
        number = work // len(samples)
        return CancelledError(f"Question {number} was cancelled.") if number in cancelled else None

    reasoner.prepare()
    ended: dict[int, dict[int, Result | EdgeReasonError]] = {}
    number = 0
    with closing(run(works(), size, given_up)) as runs:
        for work, outcome in runs:
            ended.setdefault(work // len(samples), {})[work % len(samples)] = outcome
            while len(ended.get(number, ())) == len(samples):
                found = ended.pop(number)
                yield _outcome(number, asked.pop(number), [found[sample] for sample in sorted(found)])
                number += 1


def _outcome(number: int, question: str, found: list[Result | EdgeReasonError]) -> Outcome:
    results = tuple(each for each in found if isinstance(each, Result))
    if results and not any(isinstance(each, CancelledError) for each in found):
        chosen = results[0] if len(found) == 1 else voting.majority(results, len(found))
        return Outcome(number, question, result=chosen, samples=results)
    error = next(each for each in found if isinstance(each, EdgeReasonError))
    return Outcome(number, question, error=error)


def _answer(
    reasoner: Reasoner, question: str, asking: Asking, stages: dict[str, Stage], stems: dict[str, voting.Stem]
) -> Work[Result]:
    """One question's way through both stages."""
    started = time.perf_counter()
    check_question(question)
    question = question.strip()
    timings = Timings(load_s=reasoner.load_s)
    guidance, answer = asking.given, ""
    notices: tuple[str, ...] = ()
    confidence = Confidence()
    if asking.guidance is True:
        writing, _ = _writing(reasoner, "guidance", stages, stems, timings.guidance, question, None, confidence)
        yield writing
        guidance = writing.text.strip()
    if asking.answer:
        writing, notices = _writing(reasoner, "answer", stages, stems, timings.answer, question, guidance or None)
        yield writing
        answer = writing.text
    timings.total_s = time.perf_counter() - started
    return reasoner.result(question, guidance, answer, timings, notices, confidence.value)


def _writing(
    reasoner: Reasoner,
    name: str,
    stages: dict[str, Stage],
    stems: dict[str, voting.Stem],
    timings: StageTimings,
    question: str,
    guidance: str | None,
    confidence: Confidence | None = None,
) -> tuple[Writing, tuple[str, ...]]:
    """A stage's text, not yet begun, and what was done to make its prompt fit."""
    started = time.perf_counter()
    stage, model = stages[name], reasoner.models[name]
    prepared = reasoner.prompt(name, stage, question, guidance)
    prompt, limit = prepared.ids, prepared.limit

    def begin() -> Decoding:
        capacity = len(prompt) + limit
        session = (
            stems[name].session(partial(reasoner.session, name), prompt, capacity)
            if stems
            else reasoner.session(name, prompt, capacity)
        )
        sampler, forcing = Sampler(stage.sampling, prompt), reasoner.forcing(name, stage)
        lookup = reasoner.lookup(name, prompt)
        return Decoding(
            session,
            prompt,
            sampler,
            stage.stop_ids,
            limit,
            timings,
            started,
            lookup,
            forcing,
            confidence,
        )

    return Writing(model.engine, begin, model.tokenizer.stream(), stage.stop_strings), prepared.notices
