"""`edgereason batch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgereason.cli.options import Calculator, Engine, Seed, Temperature, Threads

if TYPE_CHECKING:
    from edgereason.pipeline.batch_file import Progress

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has stopped


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="JSON lines, each with a `question`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON lines of results; what it holds already is kept.")],
    bundle: Annotated[
        Optional[Path],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(help="The bundle to ask; the example model of the package when left out."),
    ] = None,
    engine: Engine = "auto",
    size: Annotated[int, typer.Option(help="Most texts in one pass over the weights.")] = 16,
    samples: Annotated[int, typer.Option(help="Answers per question, of which the majority wins.")] = 1,
    guidance: Annotated[bool, typer.Option("--guidance/--no-guidance", help="Write a guidance first.")] = True,
    max_tokens: Annotated[Optional[int], typer.Option(help="Most tokens per stage.")] = None,  # noqa: UP045
    temperature: Temperature = None,
    seed: Seed = None,
    calculator: Calculator = None,
    threads: Threads = None,
) -> None:
    """Answer a file of questions, many at once; the same command goes on where it was interrupted."""
    from rich.console import Console

    from edgereason.cli.display.progress import file_progress
    from edgereason.pipeline.batch_file import answer_file
    from edgereason.pipeline.reasoner import load

    console = Console(stderr=True, highlight=False)
    arguments = {
        "size": size,
        "samples": samples,
        "guidance": guidance,
        "max_new_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "calculator": calculator,
    }
    with load(bundle, engine, threads) as reasoner:
        started = time.perf_counter()
        try:
            with file_progress(console, str(source)) as report:
                progress = answer_file(reasoner, source, out, report=report, **arguments)
        except KeyboardInterrupt:
            typer.echo("\nstopped; the same command goes on from here.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    console.print(_summary(progress, time.perf_counter() - started), markup=False)


def _summary(progress: Progress, seconds: float) -> str:
    parts = [f"{progress.answered} answered"]
    if progress.before:
        parts.append(f"{progress.before} were there before")
    if progress.failed:
        parts.append(f"{progress.failed} failed (see their `error`)")
    if progress.answered:
        rates = f"{progress.answered / seconds:.1f} questions/s, {progress.tokens / seconds:.0f} tok/s"
        parts.append(f"{seconds:.1f} s ({rates})")
    return " · ".join(parts)
