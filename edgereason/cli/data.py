"""`edgereason data`: making training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgereason.cli.options import Threads

if TYPE_CHECKING:
    from edgereason.training.data.guidance_writing import Statistics

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make training data.")

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has stopped


@app.command("guide")
def guide(
    source: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="JSON lines with `question` and `result`.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON lines of training data.")],
    teacher: Annotated[
        str, typer.Option(help="Who writes: a bundle, a .gguf file, or an address such as http://localhost:8080.")
    ],
    kind: Annotated[str, typer.Option(help="guidance, which computes nothing, or rationale.")] = "guidance",
    samples: Annotated[int, typer.Option(help="Texts that the teacher writes for each question.")] = 4,
    keep: Annotated[int, typer.Option(help="Most texts kept for each question.")] = 1,
    near: Annotated[
        float, typer.Option(help="Share of common word trigrams that makes a duplicate; above 1 for exact ones only.")
    ] = 0.8,
    temperature: Annotated[float, typer.Option(help="How freely the teacher writes.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Keep the most probable tokens that add up to this.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of a text.")] = 256,
    seed: Annotated[int, typer.Option(help="Makes the texts of a model on this machine repeatable.")] = 0,
    size: Annotated[int, typer.Option(help="Texts under way at once.")] = 16,
    threads: Threads = None,
    json_path: Annotated[Optional[Path], typer.Option("--json", help="Write the statistics here.")] = None,  # noqa: UP045
) -> None:
    """Have a teacher write solution guidances for questions with known answers, and keep the good ones.

    Dropped are texts that compute, have numbers that the question does not have, say the answer, or repeat others. The
    same command goes on where it was interrupted.
    """
    from rich.console import Console

    from edgereason.cli.display.progress import rounds_progress
    from edgereason.training.data.guidance_writing import write_guides
    from edgereason.training.data.teacher import Wish, parse_kind

    wish = Wish(parse_kind(kind), samples, temperature, top_p, seed, max_tokens, size)
    try:
        with rounds_progress(str(source)) as report:
            statistics = write_guides(source, out, teacher, wish, keep, near, threads, report)
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command goes on from here.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    Console(stderr=True, highlight=False).print(_summary(statistics), markup=False)
    if json_path is not None:
        json_path.write_text(json.dumps(statistics.to_json(), indent=2) + "\n", encoding="utf-8")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="GSM8K, SVAMP, CommonsenseQA, ARC or StrategyQA, as they come.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON lines of training data.")],
    limit: Annotated[Optional[int], typer.Option(help="Take the first N problems only.")] = None,  # noqa: UP045
) -> None:
    """Bring a public data set into the form of training data."""
    from edgereason.training.data.conversion import convert as run

    typer.echo(f"{out}: {run(source, out, limit)} examples", err=True)


def _summary(statistics: Statistics) -> str:
    dropped = " · ".join(f"{count} {reason}" for reason, count in statistics.dropped.most_common())
    kept = f"{statistics.kept} kept, for {statistics.served} of {statistics.questions} questions"
    return f"{statistics.samples} texts: {kept}" + (f"; dropped: {dropped}" if dropped else "")
