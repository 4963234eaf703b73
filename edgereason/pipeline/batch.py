"""Many questions at once: both stages of each in shared forward passes, and votes among several samples."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from edgereason.bundle import STAGES, Stage
from edgereason.decoding.continuous_batching import Work, run
from edgereason.errors import CancelledError, EdgeReasonError, UsageError
from edgereason.pipeline import voting
from edgereason.pipeline.options import AskOptions
from edgereason.pipeline.results import Result
from edgereason.pipeline.runtime import Runtime
from edgereason.pipeline.two_stages import TwoStages


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

        Its memory is freed before the next forward pass, its outcome has a `CancelledError`, and the others go on.

        Args:
            number: Which question, from 0. It may be one that was not taken yet.
        """
        self._cancelled.add(number)

    def close(self) -> None:
        """Stop answering. Closing twice is allowed."""
        self._outcomes.close()


def answer_all(
    runtime: Runtime, questions: Iterable[str], batch_size: int, options: AskOptions, load_s: float
) -> Outcomes:
    """Answer questions in shared forward passes; see `Reasoner.batch`."""
    if batch_size < 1:
        raise UsageError(f"batch-size is {batch_size}.", "Give 1 or more.")
    if runtime.remote is not None or options.timeout is not None:
        raise UsageError(
            "Many questions at once need an answer model on this machine, and have no timeout.",
            "Ask one by one, or leave the server and the timeout out.",
        )
    samples = voting.sample_stages(options.stages(runtime.bundle.stages), options.samples, options.temperature)
    cancelled: set[int] = set()
    return Outcomes(_outcomes(runtime, questions, samples, options, batch_size, load_s, cancelled), cancelled)


def _outcomes(
    runtime: Runtime,
    questions: Iterable[str],
    samples: list[dict[str, Stage]],
    options: AskOptions,
    batch_size: int,
    load_s: float,
    cancelled: set[int],
) -> Generator[Outcome, None, None]:
    """In the order of the questions: those that end early wait for the ones before them."""
    asked: dict[int, str] = {}

    def works() -> Iterator[Work[Result]]:
        for number, question in enumerate(questions):
            asked[number] = question
            stems = {name: voting.Stem() for name in STAGES} if len(samples) > 1 else None
            for stages in samples:
                yield TwoStages(runtime, question, options, stages, load_s, stems=stems).work()

    def given_up(work: int) -> CancelledError | None:
        number = work // len(samples)
        return CancelledError(f"Question {number} was cancelled.") if number in cancelled else None

    runtime.sessions.prepare()
    ended: dict[int, dict[int, Result | EdgeReasonError]] = {}
    number = 0
    with closing(run(works(), batch_size, given_up)) as runs:
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
