"""`edgereason eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgereason.cli.options import Calculator, Threads

if TYPE_CHECKING:
    from edgereason.evaluation import Report

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has stopped


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="The bundles to measure.")],
    data: Annotated[str, typer.Option(metavar="NAME_OR_FILE", help="A data set, or a file of problems.")],
    data_dir: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(help="Where the data sets' files lie; $EDGEREASON_DATA when left out."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(help="Take the first N problems only.")] = None,  # noqa: UP045
    mode: Annotated[str, typer.Option(help="two-stage, answer-only or guidance-only.")] = "two-stage",
    samples: Annotated[int, typer.Option(help="Answers per question, of which the majority counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Of several samples; a single one is greedy.")] = 0,
    max_tokens: Annotated[Optional[int], typer.Option(help="Most tokens per stage.")] = None,  # noqa: UP045
    calculator: Calculator = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run the programs that answer HumanEval and MBPP, confined.")
    ] = False,
    size: Annotated[int, typer.Option(help="Most texts in one pass over the weights.")] = 16,
    threads: Threads = None,
    json_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", help="Write figures and transcripts here; of several bundles, a directory of files."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that --json has already.")] = False,
    against: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="An earlier --json file to compare with; of several bundles the first, when left out."),
    ] = None,
) -> None:
    """Measure how many problems a bundle answers right."""
    from rich.console import Console

    from edgereason.cli.display.accuracy_tables import show_reports
    from edgereason.cli.display.progress import evaluation_progress
    from edgereason.errors import UsageError
    from edgereason.evaluation import Way, problems_of, read_report, reports
    from edgereason.pipeline.reasoner import load

    if resume and json_path is None:
        raise UsageError("--resume goes on with a file, and none is given.", "Name it with --json.")
    way = Way(mode, samples, seed, max_tokens, calculator)  # type: ignore[arg-type]  # it checks its mode
    problems = problems_of(data, data_dir, limit)
    other = None if against is None else (str(against), read_report(against))
    found: dict[str, Report] = {}
    for bundle, path in zip(bundles, reports.paths_of(bundles, json_path), strict=True):
        name = str(bundle)
        with load(bundle, threads=threads) as reasoner, evaluation_progress(name, len(problems)) as progress:
            arguments: dict[str, Any] = {"data": data, "path": path, "resume": resume, "against": other}
            arguments |= {"report": progress, "allow_code": allow_code, "size": size}
            try:
                found[name] = reports.evaluate(reasoner, problems, way, **arguments)
            except KeyboardInterrupt:
                typer.echo(f"\nstopped{f'; --resume goes on from {path}' if path else ''}.", err=True)
                raise typer.Exit(INTERRUPTED) from None
        other = other or (name, found[name])
    show_reports(found, Console(highlight=False))
