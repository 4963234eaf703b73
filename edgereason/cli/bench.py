"""`edgereason bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgereason.cli.options import GpuLayers, Threads, layers_on_gpu

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgereason.speed import Speed, Spread


def bench(
    bundle: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Argument(help="The bundle to measure; the example model of the package when left out."),
    ] = None,
    compare: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Another bundle to measure in turn with it; may be given several times."),
    ] = None,
    questions: Annotated[int, typer.Option(help="How many questions to ask.")] = 8,
    rounds: Annotated[int, typer.Option(help="How often each bundle is measured.")] = 3,
    threads: Threads = None,
    gpu_layers: GpuLayers = "auto",
    json_path: Annotated[Optional[Path], typer.Option("--json", help="Write the figures here.")] = None,  # noqa: UP045
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw the two stages on a time axis, as PNG or SVG (needs matplotlib)."),
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Find the best number of threads and keep it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Keep it without asking.")] = False,
) -> None:
    """Measure how fast a bundle answers on this machine."""
    from rich.console import Console

    from edgereason import speed
    from edgereason.cli.display.progress import rounds_progress

    console = Console(highlight=False)
    if tune:
        return _tune(bundle, yes, console)
    with rounds_progress("measuring") as report:
        speeds = speed.compare(
            [bundle, *(compare or [])], rounds, questions, threads, layers_on_gpu(gpu_layers), report
        )
    console.print(_table(speeds))
    if json_path is not None:
        json_path.write_text(json.dumps([each.to_json() for each in speeds], indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        speed.plot(speeds, plot)
    return None


def _tune(bundle: Path | None, yes: bool, console: Console) -> None:
    from edgereason import configuration, speed
    from edgereason.cli.display.progress import rounds_progress

    with rounds_progress("measuring") as report:
        seconds = speed.best_threads(bundle, report)
    best = next(iter(seconds))
    for count in sorted(seconds):
        mark = " <- best" if count == best else ""
        console.print(f"{count} threads: {1000 * seconds[count]:.1f} ms for a question{mark}")
    if yes or typer.confirm(f"Use {best} threads from now on?", default=True):
        console.print(f"kept in {configuration.write(configuration.Configuration(best))}", soft_wrap=True)


def _table(speeds: list[Speed]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("")
    for each in speeds:
        table.add_column(f"{Path(each.bundle).name} ({each.engine}, {each.layout})", justify="right")
    columns = [_figures(each) for each in speeds]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _figures(speed: Speed) -> dict[str, str]:
    """A bundle's column."""
    figures = {}
    for name, stage in speed.stages.items():
        figures[f"{name}: prefill, tok/s"] = f"{stage.prefill_tok_s:,.0f}"
        figures[f"{name}: decode, tok/s"] = f"{stage.decode_tok_s:,.0f}"
        figures[f"{name}: first token, ms (p50 / p95)"] = _milliseconds(stage.ttft)
        figures[f"{name}: each further token, ms (p50 / p95)"] = _milliseconds(stage.tpot)
    figures["hand-over, ms (p50 / p95)"] = _milliseconds(speed.handover)
    figures["question, ms (p50 / p95)"] = _milliseconds(speed.total)
    figures["peak memory, MB"] = f"{speed.peak_rss_mb:,.0f}"
    figures["load, ms"] = f"{1000 * speed.load_s:.0f}"
    figures["threads"] = str(speed.threads)
    return figures


def _milliseconds(spread: Spread) -> str:
    digits = 2 if spread.p95 < 0.01 else 0
    return f"{1000 * spread.p50:,.{digits}f} / {1000 * spread.p95:,.{digits}f}"
