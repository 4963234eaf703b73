"""Evaluations as tables: each bundle's accuracy, how bundles compare, and where the mistakes lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edgereason.evaluation import Comparison, EvaluationReport


def show_reports(reports: Mapping[str, EvaluationReport], console: Console) -> None:
    """Print the reports of several bundles, by their names."""
    table = Table("bundle", "engine", "right", "accuracy", "95% interval", box=None)
    for name, report in reports.items():
        figures = report.accuracy
        interval = f"{figures.low:.1%} to {figures.high:.1%}"
        right = f"{figures.correct}/{figures.total}"
        table.add_row(name, report.settings["engine"], right, f"{figures.accuracy:.1%}", interval)
    console.print(table)
    for name, report in reports.items():
        failed = sum(bool(row.error) for row in report.accuracy.rows)
        if failed:
            console.print(
                f"{name}: {failed} problems could not be asked and count as wrong.", markup=False, soft_wrap=True
            )
        if report.against is not None:
            console.print(f"{name} {sentence(report.against)}", markup=False, soft_wrap=True)
    _show_structures(reports, console)


def sentence(comparison: Comparison) -> str:
    """How one way compares with another.

    >>> from edgereason.evaluation import Comparison
    >>> sentence(Comparison(8, 2, 100, "b"))
    'against b: +6.0 points (0.0 to 12.0), right alone on 8, wrong alone on 2, McNemar p = 0.11'
    """
    c = comparison
    interval = f"{100 * c.low:.1f} to {100 * c.high:.1f}"
    alone = f"right alone on {c.only_this}, wrong alone on {c.only_other}"
    return f"against {c.other}: {100 * c.difference:+.1f} points ({interval}), {alone}, McNemar p = {c.p:.2g}"


def _show_structures(reports: Mapping[str, EvaluationReport], console: Console) -> None:
    """Groups of problems with a mistake, those with most first; the rest in a line."""
    groups = {name: report.accuracy.by_structure() for name, report in reports.items()}
    wrong = {
        structure: sum(each[structure].total - each[structure].correct for each in groups.values())
        for structure in next(iter(groups.values()), {})
    }
    if len(wrong) < 2:
        return
    console.print()
    table = Table("structure", *groups, box=None)
    for structure in sorted(filter(wrong.__getitem__, wrong), key=wrong.__getitem__, reverse=True):
        cells = (f"{each[structure].correct}/{each[structure].total}" for each in groups.values())
        table.add_row(structure, *cells)
    if table.row_count:
        console.print(table)
    faultless = len(wrong) - table.row_count
    if faultless:
        console.print(f"{faultless} structures without a mistake")
