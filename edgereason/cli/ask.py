"""`edgereason ask`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgereason.results import Event, Result

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has stopped


def ask(
    question: Annotated[
        Optional[str],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Argument(help="The question; read from standard input when left out."),
    ] = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The bundle to ask; the example model of the package when left out."),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, native, llama.cpp or onnx.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the final result only.")] = False,
    guidance: Annotated[bool, typer.Option("--guidance/--no-guidance", help="Write a guidance first.")] = True,
    max_tokens: Annotated[Optional[int], typer.Option(help="Most tokens per stage.")] = None,  # noqa: UP045
    temperature: Annotated[Optional[float], typer.Option(help="0 for greedy decoding.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(help="Makes sampling repeatable.")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="Answers to write, of which the majority wins.")] = 1,
    threads: Annotated[Optional[int], typer.Option(help="Threads to compute with.")] = None,  # noqa: UP045
    off: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A technique to do without, such as reading-along; may be repeated; all: every one."),
    ] = None,
) -> None:
    """Answer a question in two stages: a guidance, then the answer that follows it."""
    from edgereason.pipeline import load
    from edgereason.techniques import Techniques

    question = question if question is not None else sys.stdin.read()
    with load(bundle, engine, threads, Techniques.without(off or ())) as reasoner:
        events = reasoner.stream(
            question,
            guidance=guidance,
            max_new_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            samples=samples,
        )
        try:
            result = _silent(events) if as_json or quiet else _show(events)
        except KeyboardInterrupt:
            typer.echo("\nstopped.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
    elif quiet:
        typer.echo(result.final if result.final is not None else result.answer)


def _silent(events: Iterator[Event]) -> Result:
    *_, last = events
    assert last.result is not None
    return last.result


def _show(events: Iterator[Event]) -> Result:
    """Write the stages' text as it comes, the guidance dimmed, and a line of timings at the end."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    styles = {"guidance": "dim", "answer": ""}
    stage = None
    for event in events:
        if event.result is not None:
            break
        if stage is not None and event.stage != stage:
            console.print("\n")
        stage = event.stage
        console.print(event.text, style=styles[stage], end="", markup=False)
    result = event.result
    assert result is not None
    console.print()
    if result.final is not None:
        console.print(f"\n{result.final}", style="bold", markup=False)
    if result.agreement is not None:
        agreeing = round(result.agreement * result.samples)
        console.print(f"{agreeing} of {result.samples} answers agree", style="dim", markup=False)
    console.print(_timing_line(result), style="dim", markup=False)
    return result


def _timing_line(result: Result) -> str:
    timings = result.timings
    parts = [f"load {timings.load_s:.2f} s"]
    for name, stage in (("guidance", timings.guidance), ("answer", timings.answer)):
        if stage.new_tokens:
            rate = f", {(stage.new_tokens - 1) / stage.decode_s:.0f} tok/s" if stage.decode_s else ""
            parts.append(f"{name} {stage.new_tokens} tokens (first after {stage.ttft_s * 1000:.0f} ms{rate})")
    return f"{result.engine}: {' · '.join(parts)} · total {timings.total_s:.2f} s"
