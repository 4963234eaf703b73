"""`edgereason data`: making training data."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import BatchSize, Threads

if TYPE_CHECKING:
    from edgereason.training.data.guidance_writing import Statistics

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make training data.")


@app.command("guide")
def guide(
    source: Annotated[
        Path, typer.Argument(metavar="QUESTIONS", help="Questions: JSON lines with `question` and `result`.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON lines of training data.")],
    teacher: Annotated[
        str, typer.Option(help="Teacher model: a bundle, a GGUF file, or a server URL such as http://localhost:8080.")
    ],
    kind: Annotated[
        str, typer.Option(help="What to write: guidance, which computes nothing, or rationale.")
    ] = "guidance",
    samples: Annotated[int, typer.Option(help="Texts to sample per question.")] = 4,
    keep: Annotated[int, typer.Option(help="Maximum texts to keep per question.")] = 1,
    near: Annotated[
        float, typer.Option(help="Word trigram overlap (Jaccard) of near duplicates; above 1 drops only exact ones.")
    ] = 0.8,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set of tokens with this probability.")] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Maximum new tokens per text.")] = 256,
    seed: Annotated[int, typer.Option(help="Random seed; reproducible for local models.")] = 0,
    batch_size: BatchSize = 16,
    threads: Threads = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the statistics to this file.")] = None,
) -> None:
    """Sample solution guidance from a teacher, and keep the good texts.

    Drops texts that compute, contain numbers that are not in the question, state the answer, or repeat others. Run the
    same command again to resume.
    """
    from edgereason.cli.display.interruption import interruptible
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress
    from edgereason.training.data.guidance_writing import write_guidance
    from edgereason.training.data.teacher import TeacherRequest, parse_kind

    request = TeacherRequest(parse_kind(kind), samples, temperature, top_p, seed, max_tokens, batch_size)
    name = f"writing {out}"
    with interruptible("stopped; the same command continues from here."), shown_progress(name) as report:
        statistics = write_guidance(source, out, teacher, request, keep, near, threads, partial(report, name))
    plain_console(stderr=True).print(_summary(statistics), markup=False)
    if json_path is not None:
        json_path.write_text(json.dumps(statistics.to_json(), indent=2) + "\n", encoding="utf-8")


@app.command("convert")
def convert(
    source: Annotated[Path, typer.Argument(help="File of GSM8K, SVAMP, CommonsenseQA, ARC or StrategyQA.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSON lines of training data.")],
    limit: Annotated[int | None, typer.Option(help="Convert only the first N problems.")] = None,
) -> None:
    """Convert a public data set to training data."""
    from edgereason.training.data.conversion import convert as run

    typer.echo(f"{out}: {run(source, out, limit)} examples", err=True)


def _summary(statistics: Statistics) -> str:
    dropped = " · ".join(f"{count} {reason}" for reason, count in statistics.dropped.most_common())
    kept = f"{statistics.kept} kept, for {statistics.served} of {statistics.questions} questions"
    return f"{statistics.samples} texts: {kept}" + (f"; dropped: {dropped}" if dropped else "")
