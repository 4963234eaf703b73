"""Progress on a terminal: a bar for each step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from edgereason.progress.display import StepReport


@contextmanager
def progress_bars(what: str, console: Console, transient: bool) -> Iterator[StepReport]:
    """Bars on a console.

    Args:
        what: Names the bar that moves while no step has reported itself.
        console: Where to; what else is written there meanwhile stays above the bars.
        transient: Whether the bars vanish at the end.
    """
    detail = TextColumn("{task.fields[detail]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), detail)
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=transient) as bars:
        waiting: TaskID | None = bars.add_task(what, total=None, detail="")
        tasks: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int, detail: str = "") -> None:
            nonlocal waiting
            if waiting is not None:
                bars.remove_task(waiting)
                waiting = None
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total, completed=done, detail=detail)
            bars.update(tasks[step], completed=done, total=total, detail=detail)

        yield report
