"""`edgereason eval`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.parameters.common_options import BatchSize, Calculator, Threads

if TYPE_CHECKING:
    from edgereason.evaluation import EvaluationReport, Row
    from edgereason.progress.display import StepReport


def evaluate(
    bundles: Annotated[list[Path], typer.Argument(help="The bundles to evaluate.")],
    data: Annotated[str, typer.Option(metavar="NAME_OR_FILE", help="Data set name, or a file of problems.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of the data sets [default: $EDGEREASON_DATA]."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Evaluate only the first N problems.")] = None,
    mode: Annotated[str, typer.Option(help="two-stage, answer-only or guidance-only.")] = "two-stage",
    samples: Annotated[
        int, typer.Option(help="Answers to sample per question; the majority counts (self-consistency).")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Random seed for several samples; a single answer is greedy.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum new tokens per stage.")] = None,
    calculator: Calculator = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run generated programs for HumanEval and MBPP, in a confined process.")
    ] = False,
    batch_size: BatchSize = 16,
    threads: Threads = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Write accuracy and transcripts to this file; a directory for several bundles."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the rows in the --json file.")] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Earlier --json file to compare with [default: the first of several bundles]."),
    ] = None,
) -> None:
    """Measure a bundle's accuracy on a data set."""
    from edgereason.cli.display.accuracy_tables import show_reports
    from edgereason.cli.display.interruption import interruptible
    from edgereason.errors import UsageError
    from edgereason.evaluation import EvaluationSettings, problems_of, read_report, reports
    from edgereason.pipeline.reasoner import load
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    if resume and json_path is None:
        raise UsageError("--resume needs a file to continue.", "Name it with --json.")
    way = EvaluationSettings(mode, samples, seed, max_tokens, calculator)  # type: ignore[arg-type]  # it checks its mode
    problems = problems_of(data, data_dir, limit)
    other = None if against is None else (str(against), read_report(against))
    found: dict[str, EvaluationReport] = {}
    for bundle, path in zip(bundles, reports.paths_of(bundles, json_path), strict=True):
        name = str(bundle)
        arguments: dict[str, Any] = {"data": data, "path": path, "resume": resume, "against": other}
        arguments |= {"allow_code": allow_code, "batch_size": batch_size}
        with (
            interruptible(f"stopped{f'; --resume continues from {path}' if path else ''}."),
            shown_progress(f"evaluating {name}") as report,
            load(bundle, threads=threads) as reasoner,
        ):
            progress = partial(_report_rows, report, f"evaluating {name}", len(problems))
            found[name] = reports.evaluate(reasoner, problems, way, report=progress, **arguments)
        other = other or (name, found[name])
    show_reports(found, plain_console())


def _report_rows(report: StepReport, step: str, total: int, rows: Sequence[Row]) -> None:
    """The progress of an evaluation, with the accuracy so far."""
    accuracy = f"{sum(row.correct for row in rows) / len(rows):.1%} right" if rows else ""
    report(step, len(rows), total, accuracy)
