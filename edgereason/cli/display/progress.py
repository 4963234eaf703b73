"""Progress bars for long work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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

from edgereason.errors import EdgeReasonWarning

if TYPE_CHECKING:
    from edgereason.evaluation import Row
    from edgereason.pipeline.batch_file import Progress as FileProgress


@contextmanager
def file_progress(console: Console, name: str) -> Iterator[Callable[[FileProgress], None]]:
    """A bar for a file of questions: called after each line. It vanishes at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda file: bars.update(task, completed=file.done, total=file.total)


@contextmanager
def export_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each step that reports itself: called with the step's name, what is done of it, and its total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield report


@contextmanager
def shown_warnings(console: Console) -> Iterator[None]:
    """Our warnings as sentences, others as Python shows them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def sentence(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, EdgeReasonWarning):
                console.print(f"warning: {message}", style="yellow", highlight=False, markup=False)
            else:
                show(message, category, *rest, **more)

        warnings.showwarning = sentence
        yield


@contextmanager
def evaluation_progress(name: str, total: int) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A bar for an evaluation, with the share of right answers: called with all rows so far. It vanishes at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(name, total=total)

        def report(rows: Sequence[Row]) -> None:
            share = f" {sum(row.correct for row in rows) / len(rows):.1%} right" if rows else ""
            bars.update(task, completed=len(rows), description=name + share)

        yield report


@contextmanager
def rounds_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work in rounds: called with what is done and the total. It vanishes at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
