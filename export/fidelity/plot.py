"""The fidelity report as a plot: for each stage, every rung's distance from the reference, and its limit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgereason.errors import EngineError
from edgereason.export.fidelity.limits import EXACT
from edgereason.export.fidelity.report import TITLES, FidelityReport, Rung, StageReport, format_measure
from edgereason.files import new_file

_GOOD, _BAD, _QUIET = "#2a7f4f", "#c0392b", "#9aa3a8"
_MIN_DRAWN = 1e-9
"""Lower bound of drawn divergences: what is below is rounding."""


def draw(report: FidelityReport, path: Path) -> None:
    """Draw a report as PNG; the file appears when it is complete.

    Raises:
        EngineError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineError(
            "Drawing needs matplotlib, which is not installed.", 'Install it: pip install "edgereason[export]"'
        ) from error
    rows = max(len(stage.rungs) for stage in report.stages.values())
    figure = Figure(figsize=(6.2 * len(report.stages), 1.9 + 0.42 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(report.stages), squeeze=False)[0]
    largest = _largest(report)
    for axis, (name, stage) in zip(axes, report.stages.items(), strict=True):
        _draw_stage(axis, name, stage, largest)
    finding = report.finding
    figure.suptitle(
        f"{finding.stage} model: too much is lost on the rung “{TITLES[finding.rung]}”"
        if finding
        else f"Nothing is lost beyond what is allowed, compared with {report.reference}",
        color=_BAD if finding else _GOOD,
        fontsize=12,
    )
    with new_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)


def _draw_stage(axis: Any, name: str, stage: StageReport, largest: float) -> None:
    axis.set_title(f"{name}: {stage.prompts} prompts, {stage.positions:,} tokens", fontsize=10, loc="left")
    for row, rung in enumerate(stage.rungs):
        _draw_rung(axis, row, rung, largest)
    axis.set_yticks(range(len(stage.rungs)), [TITLES[rung.name] for rung in stage.rungs])
    for label, rung in zip(axis.get_yticklabels(), stage.rungs, strict=True):
        label.set_color(_BAD if rung.exceeded else "black")
    axis.set_ylim(len(stage.rungs) - 0.4, -0.75)  # from top to bottom
    axis.set_xscale("log")
    axis.set_xlim(_MIN_DRAWN / 2, largest * 30)
    axis.set_xlabel("KL divergence from the reference, nats\nbar: mean · line: mean allowed · dot: 99th percentile")
    axis.xaxis.label.set_fontsize(8)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_rung(axis: Any, row: int, rung: Rung, largest: float) -> None:
    color = _BAD if rung.exceeded else _GOOD
    if rung.name in EXACT:
        different, compared = rung.measures["different"], rung.measures["compared"]
        words = f"✗ {different:,.0f} of {compared:,.0f} differ" if rung.exceeded else f"✓ all {compared:,.0f} equal"
        axis.text(_MIN_DRAWN, row, words, color=color, va="center", fontsize=9)
        return
    mean, high = (_drawn(rung.measures[name], largest) for name in ("kl", "kl_p99"))
    axis.barh(row, mean - _MIN_DRAWN / 2, left=_MIN_DRAWN / 2, height=0.55, color=color)
    axis.plot(high, row, "o", color=color, markersize=4)
    if "kl" in rung.limits:
        axis.vlines(_drawn(rung.limits["kl"], largest), row - 0.38, row + 0.38, color=_QUIET, linewidth=2)
    words = f"same token {format_measure('top1', rung.measures['top1'])}"
    words += f" · same text {format_measure('greedy', rung.measures['greedy'])}"
    axis.annotate(words, (0.995, row - 0.42), xycoords=("axes fraction", "data"), ha="right", fontsize=7, color=color)


def _drawn(value: float, largest: float) -> float:
    return min(max(value, _MIN_DRAWN), 20 * largest) if math.isfinite(value) else 20 * largest


def _largest(report: FidelityReport) -> float:
    """The largest finite divergence or limit, for the axis."""
    values = [
        number
        for stage in report.stages.values()
        for rung in stage.rungs
        for number in (rung.measures.get("kl_p99", 0), rung.limits.get("kl", 0))
        if math.isfinite(number)
    ]
    return max([*values, 1e-3])
