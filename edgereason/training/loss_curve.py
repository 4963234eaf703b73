"""The loss over a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SMOOTHING = 0.9


def plot_losses(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Plot the losses of a Trainer's `log_history` and their moving average over the steps, as PNG.

    Args:
        history: Entries with `step` and `loss`; others are left out.
    """
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    points = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.8, alpha=0.5, label="each step")
    axes.plot(steps, _averages(losses), linewidth=1.6, label="moving average")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    # Without a date and a version inside, so that the same training gives the same bytes.
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _averages(losses: Sequence[float]) -> list[float]:
    averages: list[float] = []
    for loss in losses:
        averages.append(_SMOOTHING * averages[-1] + (1 - _SMOOTHING) * loss if averages else loss)
    return averages
