"""How a training reports its steps and loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgereason.progress.display import StepReport, shown_progress
from edgereason.training.distributed import processes

_SMOOTHING = 0.9


class LossProgress(TrainerCallback):  # type: ignore[misc]
    """Reports a training's steps with a moving average of the loss.

    Args:
        name: The step's name.
        report: Called at the beginning and after each step.
    """

    def __init__(self, name: str, report: StepReport) -> None:
        self._name = name
        self._report = report
        self._loss: float | None = None

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, __: TrainerControl, **___: Any) -> None:
        self._report(self._name, state.global_step, state.max_steps)

    def on_log(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, logs: dict[str, Any], **___: Any
    ) -> None:
        if "loss" not in logs:
            return
        value = float(logs["loss"])
        self._loss = value if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * value
        self._report(self._name, state.global_step, state.max_steps, f"loss {self._loss:.4f}")


@contextmanager
def shown_training(name: str) -> Iterator[LossProgress]:
    """Shows a training's progress, in the first process alone.

    Args:
        name: What stands before the bar, or at the beginning of a line.
    """
    with shown_progress(name, shown=processes().is_main_process) as report:
        yield LossProgress(name, report)


@contextmanager
def counted(name: str) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of other work, in the first process alone: called with what is done and the total."""
    with shown_progress(name, shown=processes().is_main_process) as report:
        yield partial(report, name)
