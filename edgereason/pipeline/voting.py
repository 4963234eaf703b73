"""Self-consistency: several answers to one question, and the final result that most of them have (arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np

from edgereason.bundle import Stage
from edgereason.engines.base import Forking, Session
from edgereason.errors import BundleError, UsageError
from edgereason.pipeline.results import Result
from edgereason.problems.final_result import comparable

TEMPERATURE = 0.7
"""Of a vote, where neither caller nor bundle ask for sampling: greedy answers would all be the same."""


def sample_stages(stages: dict[str, Stage], samples: int, temperature: float | None) -> list[dict[str, Stage]]:
    """The stages of each sample: with a temperature, and with seeds of their own that derive from the stages'.

    Raises:
        UsageError: `samples` is below 1, or more than one shall be greedy.
    """
    if samples < 1:
        raise UsageError(f"samples is {samples}.", "Give 1 or more.")
    if samples == 1:
        return [stages]
    if temperature == 0:
        raise UsageError(
            f"{samples} samples at temperature 0 are all the same.", "Leave the temperature out, or raise it."
        )
    return [{name: _sample(stage, number) for name, stage in stages.items()} for number in range(samples)]


def _sample(stage: Stage, number: int) -> Stage:
    sampling = replace(stage.sampling, temperature=stage.sampling.temperature or TEMPERATURE)
    if sampling.seed is not None:
        derived = np.random.SeedSequence([sampling.seed, number]).generate_state(1)[0]
        sampling = replace(sampling, seed=int(derived))
    return replace(stage, sampling=sampling)


def majority(results: Sequence[Result], samples: int) -> Result:
    """The first of the results that has the final result of most, with the share of `samples` that agree.

    Results are compared as numbers where they are numbers. Answers without a result have no vote, unless none has one;
    of several results with equal votes the one that came first is taken.
    """
    ballots: dict[Decimal | str | None, list[Result]] = {}
    for result in results:
        ballots.setdefault(None if result.final is None else comparable(result.final), []).append(result)
    candidates = [ballot for final, ballot in ballots.items() if final is not None] or list(ballots.values())
    winners = max(candidates, key=len)
    timings = replace(winners[0].timings, total_s=max(result.timings.total_s for result in results))
    return replace(winners[0], timings=timings, samples=samples, agreement=len(winners) / samples)


class Stem:
    """What the prompts of one stage's samples begin with: computed once, and forked for each of them."""

    def __init__(self) -> None:
        self._session: Forking | None = None

    def session(self, begin: Callable[[Sequence[int], int], Session], prompt: Sequence[int], capacity: int) -> Session:
        """A session that holds the part of `prompt` which is known, and never its last token; `begin` opens others."""
        if self._session is None:
            session = begin(prompt, capacity)
            if not isinstance(session, Forking) or len(prompt) == 1:
                return session
            if session.length < len(prompt) - 1:
                session.advance(prompt[session.length : -1])
            self._session = session
        try:
            fork = self._session.fork(max(capacity, self._session.length))
        except BundleError:  # its keys depend on the capacity
            return begin(prompt, capacity)
        fork.truncate(min(fork.common_prefix(prompt), len(prompt) - 1))
        return fork
