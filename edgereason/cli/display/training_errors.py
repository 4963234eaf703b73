"""What the commands of `edgereason train` have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

# Optional[...] in place of X | None: typer evaluates these on Python 3.10, too.
Data = Annotated[Path, typer.Argument(help="Training data, JSON lines.")]
Base = Annotated[str, typer.Option(help="The base model: a Hugging Face directory or a hub id.")]
Revision = Annotated[Optional[str], typer.Option(help="Branch, tag or commit of a base from the hub.")]  # noqa: UP045
Out = Annotated[Path, typer.Option(help="The adapter's directory.")]
Epochs = Annotated[float, typer.Option(help="Times that every example is seen.")]
Steps = Annotated[Optional[int], typer.Option(help="Updates of the weights, in place of --epochs.")]  # noqa: UP045
Batch = Annotated[int, typer.Option(help="Examples in one pass, on each device.")]
Accumulate = Annotated[int, typer.Option(help="Passes for one update of the weights.")]
Rate = Annotated[float, typer.Option(help="The learning rate at its peak.")]
Seed = Annotated[int, typer.Option(help="Makes a training repeatable.")]
MaxLength = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="Leave out examples of more tokens [default: the base's context]."),
]
Dtype = Annotated[str, typer.Option(help="auto (bfloat16 on CUDA, float32 on a CPU), float32 or bfloat16.")]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="Compute activations twice instead of keeping them.")]
SaveEvery = Annotated[int, typer.Option(help="Steps between two checkpoints.")]
Rank = Annotated[int, typer.Option(help="LoRA's rank.")]
Alpha = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(help="LoRA's scale, of which the rank is the unit [default: twice the rank]."),
]
Dropout = Annotated[float, typer.Option(help="LoRA's dropout.")]
Target = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="A layer that gets LoRA factors, such as q_proj; repeated [default: all linear ones]."),
]
LisaFlag = Annotated[
    bool, typer.Option("--lisa", help="Train all weights of a few layers at a time (LISA) in place of LoRA.")
]
LisaLayers = Annotated[int, typer.Option(help="lisa: layers at a time.")]
LisaPeriod = Annotated[int, typer.Option(help="lisa: steps until other layers are drawn.")]
LisaError = Annotated[float, typer.Option(help="lisa: how far the adapter may be from what was trained, as a share.")]
Adapter = Annotated[Path, typer.Option(help="The answer adapter where training begins; it stays as it is.")]
Samples = Annotated[int, typer.Option(help="Answers that are sampled for each question.")]
Temperature = Annotated[float, typer.Option(help="How freely answers are sampled.")]
TopP = Annotated[float, typer.Option(help="Sample from the smallest set of tokens with this probability.")]
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of a sampled answer; longer ones count as wrong.")]
Pairs = Annotated[int, typer.Option(help="Most preference pairs that one question gives.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where this training was interrupted.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at --out, or what was interrupted there.")]

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has stopped


@contextmanager
def training(out: Path) -> Iterator[None]:
    """Around a command's work: says what to install where a library is missing, and how to go on after Ctrl-C."""
    from rich.console import Console

    from edgereason.cli.display.progress import shown_warnings
    from edgereason.errors import UsageError

    console = Console(stderr=True, highlight=False)
    try:
        with shown_warnings(console):
            yield
    except ModuleNotFoundError as error:
        raise UsageError(f"Training needs {error.name}.", 'pip install "edgereason[train]"') from error
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command with --resume goes on from the last checkpoint.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first one speaks
        console.print(f"{out}: a PEFT adapter for edgereason export", markup=False, soft_wrap=True)
