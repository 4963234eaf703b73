"""`edgereason ask`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgereason.cli.options import Calculator, Engine, GpuLayers, Seed, Temperature, Threads, layers_on_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from edgereason.pipeline.results import Event, Result

OUTSIDE = "outside of what this small model knows"

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
    layout: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="merged or shared: which bundle to take of a directory that has one of each."),
    ] = None,
    engine: Engine = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the final result only.")] = False,
    no_guidance: Annotated[bool, typer.Option("--no-guidance", help="Answer without a guidance.")] = False,
    guidance_only: Annotated[bool, typer.Option("--guidance-only", help="End after the guidance.")] = False,
    guidance: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A file with a guidance to answer from, or - for standard input; none is written then."),
    ] = None,
    answer_model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Who answers in place of the bundle: another bundle, a GGUF file, or the address of a server that "
            "speaks OpenAI's chat completions."
        ),
    ] = None,
    max_tokens: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Most tokens per stage: 100 for both, guidance=100 for one; may be repeated."),
    ] = None,
    timeout: Annotated[Optional[float], typer.Option(help="Give up after so many seconds.")] = None,  # noqa: UP045
    temperature: Temperature = None,
    seed: Seed = None,
    calculator: Calculator = None,
    samples: Annotated[int, typer.Option(help="Answers to write, of which the majority wins.")] = 1,
    threads: Threads = None,
    gpu_layers: GpuLayers = "auto",
    off: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Switch off an optimization, such as overlapped-prefill; may be repeated; all: every one."),
    ] = None,
) -> None:
    """Answer a question in two stages: a guidance, then the answer that follows it."""
    from edgereason.pipeline.options import Options
    from edgereason.pipeline.reasoner import load
    from edgereason.prefill.optimizations import Optimizations

    given = None if guidance is None else _read_guidance(guidance, question)
    question = question if question is not None else sys.stdin.read()
    options = Options(
        guidance=not no_guidance if given is None else given,
        answer=not guidance_only,
        max_new_tokens=token_limits(max_tokens),
        temperature=temperature,
        seed=seed,
        calculator=calculator,
        samples=samples,
        timeout=timeout,
    )
    optimizations = Optimizations.without(off or ())
    with load(bundle, engine, threads, optimizations, answer_model, layers_on_gpu(gpu_layers), layout) as reasoner:
        events = reasoner.stream(question, **options)
        try:
            result = _silent(events) if as_json or quiet else _show(events)
        except KeyboardInterrupt:
            typer.echo("\nstopped.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
    elif quiet:
        typer.echo(result.final if result.final is not None else result.answer or result.guidance)
        if result.in_domain is False:
            typer.echo(OUTSIDE, err=True)


def token_limits(values: list[str] | None) -> int | dict[str, int] | None:
    """`--max-tokens`: `100` for both stages, or `guidance=100` and `answer=200`.

    Raises:
        UsageError: a value is neither.
    """
    from edgereason.errors import UsageError

    limits: dict[str, int] = {}
    both = None
    for value in values or ():
        stage, _, number = value.rpartition("=")
        if not number.isdecimal():
            raise UsageError(f"max-tokens is {value}.", "Give a number, or one for a stage: guidance=100.")
        if stage:
            limits[stage] = int(number)
        else:
            both = int(number)
    if both is None or not limits:
        return limits or both
    return {"guidance": both, "answer": both, **limits}


def _read_guidance(source: str, question: str | None) -> str:
    from edgereason.errors import UsageError

    if source == "-":
        if question is None:
            raise UsageError("Question and guidance cannot both come from standard input.", "Give one as an argument.")
        return sys.stdin.read()
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}.", "Give a text file, or - for standard input.") from error


def _silent(events: Iterator[Event]) -> Result:
    *_, last = events
    assert last.result is not None
    return last.result


def _show(events: Iterator[Event]) -> Result:
    from rich.console import Console

    return show_events(events, Console(highlight=False, soft_wrap=True))


def show_events(events: Iterator[Event], console: Console) -> Result:
    """Write the stages' text as it comes, the guidance dimmed, and a line of timings at the end."""
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
    if result.in_domain is False:
        console.print(OUTSIDE, style="yellow")
    for notice in result.notices:
        console.print(notice, style="yellow", markup=False)
    console.print(timing_line(result), style="dim", markup=False)
    return result


def timing_line(result: Result) -> str:
    """Where the time went, in one line."""
    timings = result.timings
    parts = [f"load {timings.load_s:.2f} s"]
    for name, stage in (("guidance", timings.guidance), ("answer", timings.answer)):
        if stage.new_tokens:
            rate = f", {(stage.new_tokens - 1) / stage.decode_s:.0f} tok/s" if stage.decode_s else ""
            parts.append(f"{name} {stage.new_tokens} tokens (first after {stage.ttft_s * 1000:.0f} ms{rate})")
    return f"{result.engine}: {' · '.join(parts)} · total {timings.total_s:.2f} s"
