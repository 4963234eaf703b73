"""What an export will take, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edgereason.export.planning import ExportPlan


def show_plan(plan: ExportPlan, console: Console) -> None:
    """Print a plan."""
    table = Table("model", "parameters", "in the bundle", "beside it", "memory", "time", box=None)
    for model in plan.models:
        sizes = (_size(model.bytes), _size(model.work_bytes), _size(model.memory_bytes))
        table.add_row(model.name, f"{model.parameters / 1e6:,.0f} M", *sizes, _time(model.seconds))
    sizes = (_size(plan.bytes), _size(plan.disk_bytes - plan.bytes), _size(plan.memory_bytes))
    table.add_row("all", "", *sizes, _time(plan.seconds))
    free = "unknown" if plan.free_memory is None else _size(plan.free_memory)
    table.add_row("free", "", _size(plan.free_disk), "", free, "")
    console.print(table, highlight=False)


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count < 1e10 else f"{count / 1e9:,.1f} GB"


def _time(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
