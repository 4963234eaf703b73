"""`edgereason bench`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import GpuLayers, Threads, layers_on_gpu

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgereason.benchmark import BundleSpeed, Percentiles


def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle to measure [default: the bundle inside the package]."),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another bundle to measure alternately with it; repeatable."),
    ] = None,
    questions: Annotated[int, typer.Option(help="Number of questions per round.")] = 8,
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = 3,
    threads: Threads = None,
    gpu_layers: GpuLayers = "auto",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the two stages on a time axis, as PNG or SVG (needs matplotlib)."),
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the fastest number of threads and save it in the configuration.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Save it without asking.")] = False,
) -> None:
    """Measure a bundle's prefill and decode speed, latency and memory on this machine."""
    from edgereason import benchmark
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    console = plain_console()
    if tune:
        return _tune(bundle, yes, console)
    bundles = [bundle, *(compare or [])]
    with shown_progress("measuring") as report:
        progress = partial(report, "measuring")
        speeds = benchmark.compare_speeds(bundles, rounds, questions, threads, layers_on_gpu(gpu_layers), progress)
    console.print(_table(speeds))
    if json_path is not None:
        json_path.write_text(json.dumps([each.to_json() for each in speeds], indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        benchmark.plot_stages(speeds, plot)
    return None


def _tune(bundle: Path | None, yes: bool, console: Console) -> None:
    from edgereason import benchmark, configuration
    from edgereason.progress.display import shown_progress

    with shown_progress("measuring") as report:
        seconds = benchmark.best_threads(bundle, partial(report, "measuring"))
    best = next(iter(seconds))
    for count in sorted(seconds):
        mark = " <- best" if count == best else ""
        console.print(f"{count} threads: {1000 * seconds[count]:.1f} ms for a question{mark}")
    if yes or typer.confirm(f"Use {best} threads from now on?", default=True):
        console.print(f"saved in {configuration.write(configuration.Configuration(best))}", soft_wrap=True)


def _table(speeds: list[BundleSpeed]) -> Table:
    from rich.table import Table

    table = Table(box=None)
    table.add_column("")
    for each in speeds:
        table.add_column(f"{Path(each.bundle).name} ({each.engine}, {each.layout})", justify="right")
    columns = [_figures(each) for each in speeds]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _figures(speed: BundleSpeed) -> dict[str, str]:
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


def _milliseconds(percentiles: Percentiles) -> str:
    digits = 2 if percentiles.p95 < 0.01 else 0
    return f"{1000 * percentiles.p50:,.{digits}f} / {1000 * percentiles.p95:,.{digits}f}"
