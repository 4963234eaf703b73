"""Shows how far long work is, in the way that fits where standard error goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from edgereason.errors import UsageError
from edgereason.progress.log import ProgressLog, Standing, every, json_line, text_line

if TYPE_CHECKING:
    from rich.console import Console

INTERVAL_S = 15.0
"""Seconds between two lines where there is no terminal; `EDGEREASON_LOG_INTERVAL` changes it."""

_command_of_json: ContextVar[str | None] = ContextVar("command_of_json", default=None)


class StepReport(Protocol):
    """Called as work goes on: a step's name, its units done and in all, and what else there is to say of it."""

    def __call__(self, step: str, done: int, total: int, detail: str = "") -> None: ...


_outer: ContextVar[StepReport | None] = ContextVar("outer", default=None)


def log_json(command: str | None) -> None:
    """From now on write progress as JSON objects that name this command; None: bars and lines for people."""
    _command_of_json.set(command)


@contextmanager
def shown_progress(
    what: str, *, console: Console | None = None, transient: bool = True, shown: bool = True
) -> Iterator[StepReport]:
    """Show the progress of the work in the block, on standard error.

    On a terminal each step has a bar. Elsewhere there is a line for each complete step and one every 15 seconds, also
    while nothing is reported. Inside another such block steps appear in that one's display.

    Args:
        what: Names the work while no step has reported itself.
        console: A terminal's console, where other things are printed while bars are shown.
        transient: Whether bars vanish at the end.
        shown: False shows nothing, as in all but one of several processes.

    Raises:
        UsageError: `EDGEREASON_LOG_INTERVAL` is no number of seconds.
    """
    if (outer := _outer.get()) is not None:
        yield outer
        return
    with _display(what, console, transient, shown) as report:
        token = _outer.set(report)
        try:
            yield report
        finally:
            _outer.reset(token)


def _display(what: str, console: Console | None, transient: bool, shown: bool) -> AbstractContextManager[StepReport]:
    if not shown:
        return _nothing()
    if _command_of_json.get() is not None or not sys.stderr.isatty():
        return _lines(what, _interval())
    from edgereason.progress.bars import progress_bars
    from edgereason.progress.consoles import plain_console

    return progress_bars(what, console or plain_console(stderr=True), transient)


@contextmanager
def _nothing() -> Iterator[StepReport]:
    yield lambda step, done, total, detail="": None


@contextmanager
def _lines(what: str, interval_s: float) -> Iterator[StepReport]:
    command = _command_of_json.get()

    def write(standing: Standing) -> None:
        line = text_line(standing) if command is None else json_line(standing, command)
        with suppress(OSError, ValueError):  # nobody listens any more, which is no reason to end the work
            print(line, file=sys.stderr, flush=True)

    log = ProgressLog(what, write)
    with every(interval_s, log.tick):
        yield log.report


def _interval() -> float:
    chosen = os.environ.get("EDGEREASON_LOG_INTERVAL", "")
    try:
        seconds = float(chosen) if chosen else INTERVAL_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"EDGEREASON_LOG_INTERVAL is {chosen}.", "Give a positive number of seconds.")
    return seconds
