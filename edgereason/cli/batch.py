"""`edgereason batch`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import (
    BatchSize,
    Calculator,
    Engine,
    Seed,
    SpecialTokens,
    Temperature,
    Threads,
)

if TYPE_CHECKING:
    from edgereason.pipeline.batch_file import Progress


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Questions: JSON lines with a `question` each.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Results: JSON lines; existing lines are kept.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="The bundle to ask [default: the bundle inside the package]."),
    ] = None,
    engine: Engine = "auto",
    batch_size: BatchSize = 16,
    samples: Annotated[
        int, typer.Option(help="Answers to sample per question; the majority wins (self-consistency).")
    ] = 1,
    guidance: Annotated[
        bool, typer.Option("--guidance/--no-guidance", help="Write guidance before the answer.")
    ] = True,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum new tokens per stage.")] = None,
    temperature: Temperature = None,
    seed: Seed = None,
    calculator: Calculator = None,
    special_tokens: SpecialTokens = False,
    threads: Threads = None,
) -> None:
    """Answer a file of questions in batches; run the same command again to resume."""
    from edgereason.cli.display.interruption import interruptible
    from edgereason.pipeline.batch_file import answer_file
    from edgereason.pipeline.reasoner import load
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    console = plain_console(stderr=True)
    arguments = {
        "batch_size": batch_size,
        "samples": samples,
        "guidance": guidance,
        "max_new_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "calculator": calculator,
        "special_tokens": special_tokens,
    }
    name = f"answering {source}"
    with (
        interruptible("stopped; the same command continues from here."),
        shown_progress(name, console=console) as report,
        load(bundle, engine, threads) as reasoner,
    ):
        started = time.perf_counter()
        progress = answer_file(
            reasoner, source, out, report=lambda file: report(name, file.done, file.total), **arguments
        )
        seconds = time.perf_counter() - started
    console.print(_summary(progress, seconds), markup=False)


def _summary(progress: Progress, seconds: float) -> str:
    parts = [f"{progress.answered} answered"]
    if progress.before:
        parts.append(f"{progress.before} answered before")
    if progress.failed:
        parts.append(f"{progress.failed} failed (see their `error`)")
    if progress.answered:
        rates = f"{progress.answered / seconds:.1f} questions/s, {progress.tokens / seconds:.0f} tok/s"
        parts.append(f"{seconds:.1f} s ({rates})")
    return " · ".join(parts)
