"""`edgereason eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from edgereason.cli.options import Threads


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="The bundles to measure.")],
    data: Annotated[Path, typer.Option(help="JSON lines with `question` and `result` (or a GSM8K `answer`).")],
    limit: Annotated[Optional[int], typer.Option(help="Take the first N problems only.")] = None,  # noqa: UP045
    guidance: Annotated[bool, typer.Option("--guidance/--no-guidance", help="Write a guidance first.")] = True,
    threads: Threads = None,
    json_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", help="Write accuracies and transcripts here: one object per bundle."),
    ] = None,
) -> None:
    """Measure how many problems a bundle answers right."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from edgereason.evaluation import measure, read_problems
    from edgereason.pipeline import load

    problems = read_problems(data, limit)
    table = Table("bundle", "engine", "right", "accuracy", "95% interval", box=None)
    reports = {}
    for bundle in bundles:
        with load(bundle, threads=threads) as reasoner:
            asked = track(problems, description=str(bundle), console=Console(stderr=True), transient=True)
            report = measure(reasoner, asked, guidance=guidance)
            engine = reasoner.bundle.engine
        reports[str(bundle)] = report.to_json()
        table.add_row(
            str(bundle),
            engine,
            f"{report.correct}/{report.total}",
            f"{report.accuracy:.1%}",
            f"{report.low:.1%} to {report.high:.1%}",
        )
    Console(highlight=False).print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(reports, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
