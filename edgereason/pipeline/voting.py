"""Self-consistency: several answers to one question, and the final result that most of them have (arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgereason.bundle import Stage
from edgereason.engines.base import Forking, Session
from edgereason.errors import BundleError, UsageError
from edgereason.pipeline.results import Result
from edgereason.problems.equivalence import same_result

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

    Results that are all the same as each other (`problems.equivalence`) are votes for one result. Answers without a
    result have no vote, unless none has one; of several results with equal votes the one that came first is taken.
    """
    ballots: list[list[Result]] = []
    for result in results:
        for ballot in ballots:
            if all(_agree(result.final, each.final) for each in ballot):
                ballot.append(result)
                break
        else:
            ballots.append([result])
    winners = max([ballot for ballot in ballots if ballot[0].final is not None] or ballots, key=len)
    timings = replace(winners[0].timings, total_s=max(result.timings.total_s for result in results))
    return replace(winners[0], timings=timings, samples=samples, agreement=len(winners) / samples)


def _agree(final: str | None, other: str | None) -> bool:
    return final is other if final is None or other is None else same_result(final, other)


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
