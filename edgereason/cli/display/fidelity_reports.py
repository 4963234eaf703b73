"""Fidelity reports as tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.export.fidelity import FidelityReport


def show_fidelity(
    fidelity: Mapping[str, Any], where: str, console: Console, plot: Path | None = None
) -> FidelityReport | None:
    """Print and plot the report of a manifest; None if it is empty."""
    from edgereason.export.fidelity import FidelityReport

    if not fidelity:
        return None
    report = FidelityReport.from_json(fidelity, where)
    show_report(report, console, plot)
    if report.finding and fidelity.get("allow_loss"):
        console.print(f"{report.finding.sentence} This loss was allowed (--allow-loss).", style="red", markup=False)
    return report


def show_report(report: FidelityReport, console: Console, plot: Path | None) -> None:
    """Print a report, and plot it to a file if there is one."""
    console.print(f"Compared with {report.reference}:", highlight=False)
    for table in report.tables():
        console.print(table)
    if plot is not None:
        from edgereason.export.fidelity.plot import draw

        draw(report, plot)
