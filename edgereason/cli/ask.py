"""`edgereason ask`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import (
    Calculator,
    Engine,
    GpuLayers,
    Seed,
    SpecialTokens,
    Temperature,
    Threads,
    layers_on_gpu,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgereason.pipeline.results import Event, Result


def ask(
    question: Annotated[
        str | None,
        typer.Argument(help="The question [default: read from standard input]."),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="The bundle to ask [default: the bundle inside the package]."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="merged or shared, for a directory that holds a bundle of each layout."),
    ] = None,
    engine: Engine = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the final result.")] = False,
    no_guidance: Annotated[bool, typer.Option("--no-guidance", help="Answer without guidance.")] = False,
    guidance_only: Annotated[bool, typer.Option("--guidance-only", help="Write guidance and stop.")] = False,
    guidance: Annotated[
        str | None,
        typer.Option(help="Answer from the guidance in this file; - reads standard input."),
    ] = None,
    answer_model: Annotated[
        str | None,
        typer.Option(
            help="Another answer model: a bundle, a GGUF file, or the URL of a server with OpenAI's chat completions "
            "API."
        ),
    ] = None,
    max_tokens: Annotated[
        list[str] | None,
        typer.Option(help="Maximum new tokens per stage: 100 for both, guidance=100 for one; repeatable."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
    temperature: Temperature = None,
    seed: Seed = None,
    calculator: Calculator = None,
    special_tokens: SpecialTokens = False,
    samples: Annotated[int, typer.Option(help="Answers to sample; the majority wins (self-consistency).")] = 1,
    threads: Threads = None,
    gpu_layers: GpuLayers = "auto",
    off: Annotated[
        list[str] | None,
        typer.Option(help="Switch off an optimization, such as overlapped-prefill, or all; repeatable."),
    ] = None,
) -> None:
    """Answer a question in two stages: guidance, then the answer."""
    from edgereason.cli.display.answers import OUTSIDE
    from edgereason.cli.display.interruption import interruptible
    from edgereason.cli.parameters.renamed_options import refuse_renamed_values

    refuse_renamed_values("--off", off or ())
    from edgereason.pipeline.options import AskKeywords
    from edgereason.pipeline.reasoner import load
    from edgereason.prefill.optimizations import Optimizations

    given = None if guidance is None else _read_guidance(guidance, question)
    question = question if question is not None else sys.stdin.read()
    options = AskKeywords(
        guidance=not no_guidance if given is None else given,
        answer=not guidance_only,
        max_new_tokens=token_limits(max_tokens),
        temperature=temperature,
        seed=seed,
        calculator=calculator,
        special_tokens=special_tokens,
        samples=samples,
        timeout=timeout,
    )
    optimizations = Optimizations.without(off or ())
    with load(bundle, engine, threads, optimizations, answer_model, layers_on_gpu(gpu_layers), layout) as reasoner:
        events = reasoner.stream(question, **options)
        with interruptible("stopped."):
            result = _silent(events) if as_json or quiet else _show(events)
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
    from edgereason.cli.display.answers import show_events
    from edgereason.progress.consoles import plain_console

    return show_events(events, plain_console(soft_wrap=True))
