"""A bar for a training: steps, loss, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgereason.training.processes import processes

_SMOOTHING = 0.9


class ProgressBar(TrainerCallback):  # type: ignore[misc]
    """Shows a training on a terminal, and as a line now and then where there is none.

    Args:
        name: What stands before the bar.
        console: Where to; standard error when None.
        lines: How many lines a whole training gets where there is no terminal.
    """

    def __init__(self, name: str, console: Console | None = None, lines: int = 20) -> None:
        self._name = name
        self._console = console or Console(stderr=True, highlight=False)
        self._lines = lines
        self._progress: Progress | None = None
        self._loss: float | None = None

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        if not state.is_world_process_zero:
            return
        loss = TextColumn("loss {task.fields[loss]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), loss, TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console)
        self._task = self._progress.add_task(self._name, total=state.max_steps, completed=state.global_step, loss="-")
        self._progress.start()

    def on_log(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, logs: dict[str, Any], **___: Any
    ) -> None:
        if self._progress is None or "loss" not in logs:
            return
        value = float(logs["loss"])
        self._loss = value if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * value
        self._progress.update(self._task, completed=state.global_step, loss=f"{self._loss:.4f}")
        if not self._console.is_terminal and state.global_step % max(1, state.max_steps // self._lines) == 0:
            done = f"{self._name}: step {state.global_step} of {state.max_steps}"
            left = self._progress.tasks[self._task].time_remaining
            time = "" if left is None else f", {left:.0f} s left"
            self._console.print(f"{done}, loss {self._loss:.4f}{time}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away; again does nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def counted(name: str, console: Console | None = None, lines: int = 10) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is no training: called with what is done and the total.

    Args:
        name: What stands before the bar.
        console: Where to; standard error when None.
        lines: How many lines the whole work gets where there is no terminal.
    """
    console = console or Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = 0
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not processes().is_main_process) as bars:
        task = bars.add_task(name, total=None)

        def report(done: int, total: int) -> None:
            nonlocal shown
            bars.update(task, completed=done, total=total)
            if not console.is_terminal and not bars.disable and done * lines // max(1, total) > shown:
                shown = done * lines // total
                console.print(f"{name}: {done} of {total}")

        yield report
