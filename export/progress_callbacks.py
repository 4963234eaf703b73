"""How long work reports itself: callbacks, and how a part of the work reports within the whole."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and its total."""

StepProgress = Callable[[int, int], None]
"""Called with how much of one step is done, and its total."""

_FRACTIONS = 100


def part_of(progress: StepProgress, index: int, parts: int) -> StepProgress:
    """Progress within part `index` of a step of `parts` equal parts, reported in hundredths of a part."""

    def report(done: int, total: int) -> None:
        progress(index * _FRACTIONS + _FRACTIONS * done // max(total, 1), parts * _FRACTIONS)

    return report


def for_stage(progress: Progress, stage: str) -> Progress:
    """Progress of a stage, whose name precedes those of the steps."""
    return lambda name, done, total: progress(f"{stage}: {name}", done, total)


def silent(done: int, total: int) -> None:
    """A `StepProgress` that nobody listens to."""
