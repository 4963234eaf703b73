"""`edgereason calibrate`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import Engine, Threads

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.evaluation.domain import Domain


def calibrate(
    known: Annotated[
        str, typer.Option(metavar="NAME_OR_FILE", help="In-domain questions that are not in the training data.")
    ],
    other: Annotated[list[str], typer.Option(metavar="NAME_OR_FILE", help="Out-of-domain questions; repeatable.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="The bundle [default: the bundle inside the package]."),
    ] = None,
    false_alarms: Annotated[
        float, typer.Option(help="Share of in-domain questions that may count as out of domain.")
    ] = 0.02,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of the data sets [default: $EDGEREASON_DATA]."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N questions of each.")] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find the confidence threshold for out-of-domain questions."""
    from edgereason.evaluation import problems_of
    from edgereason.evaluation.domain import confidences, find_domain
    from edgereason.pipeline.reasoner import load
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    questions = {name: [problem.text for problem in problems_of(name, data_dir, limit)] for name in (known, *other)}
    with shown_progress("calibrating") as report, load(bundle, engine, threads) as reasoner:
        found = {name: confidences(reasoner, asked, report=partial(report, name)) for name, asked in questions.items()}
    domain = find_domain(found[known], {name: found[name] for name in other}, false_alarms)
    if as_json:
        typer.echo(json.dumps(domain.to_json()))
    else:
        _show(domain, plain_console())


def _show(domain: Domain, console: Console) -> None:
    from rich.table import Table

    table = Table("questions", "number", "out of domain", "AUROC", box=None)
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
