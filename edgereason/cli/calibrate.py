"""`edgereason calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgereason.cli.options import Engine, Threads

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.evaluation.domain import Domain


def calibrate(
    known: Annotated[
        str, typer.Option(metavar="NAME_OR_FILE", help="Questions that the model knows and was not trained on.")
    ],
    other: Annotated[
        list[str], typer.Option(metavar="NAME_OR_FILE", help="Questions that it does not know; may be repeated.")
    ],
    bundle: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(help="The bundle; the example model of the package when left out."),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="The share of known questions that may be called outside.")
    ] = 0.02,
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the data sets' files lie; $EDGEREASON_DATA when left out."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(help="Take the first N questions of each.")] = None,  # noqa: UP045
    engine: Engine = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the confidence below which a question is outside of what a bundle's guidance model knows."""
    from rich.console import Console

    from edgereason.cli.display.progress import rounds_progress
    from edgereason.evaluation import problems_of
    from edgereason.evaluation.domain import confidences, find_domain
    from edgereason.pipeline.reasoner import load

    questions = {name: [problem.text for problem in problems_of(name, data_dir, limit)] for name in (known, *other)}
    with load(bundle, engine, threads) as reasoner:
        found = {}
        for name, asked in questions.items():
            with rounds_progress(name) as report:
                found[name] = confidences(reasoner, asked, report=report)
    domain = find_domain(found[known], {name: found[name] for name in other}, false_alarms)
    if as_json:
        typer.echo(json.dumps(domain.to_json()))
    else:
        _show(domain, Console(highlight=False))


def _show(domain: Domain, console: Console) -> None:
    from rich.table import Table

    table = Table("questions", "number", "called outside", "AUROC", box=None)
    table.add_row("known", str(domain.known), f"{domain.false_alarms:.1%}", "")
    for name, detection in domain.others.items():
        table.add_row(name, str(detection.total), f"{detection.detected:.1%}", f"{detection.auroc:.3f}")
    console.print(table)
    console.print(f"min_confidence {domain.min_confidence:.6f}")
    console.print(
        f'Put "min_confidence": {domain.min_confidence:.6f} into the guidance adapter\'s prompt.json, '
        f"or export with --min-confidence {domain.min_confidence:.6f}.",
        style="dim",
        soft_wrap=True,
    )
