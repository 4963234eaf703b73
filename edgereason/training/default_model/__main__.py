"""Make the default model: word problems of one to four steps, through both stages.

    python -m edgereason.training.default_model --out examples/word_problems --seed 0

Interrupted at any moment, the same command resumes from its last checkpoint. It uses a CUDA device where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from edgereason.errors import EdgeReasonError, UsageError
from edgereason.progress.consoles import plain_console
from edgereason.training.default_model.from_scratch import CPU, CUDA, STAGE_NAMES, train_from_scratch


def main(
    out: Annotated[Path, typer.Option(help="Directory of the new model.")],
    seed: Annotated[int, typer.Option(help="Random seed of all data, weights and orders.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Checkpoint directory [default: build/word-problems-SEED].")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Adapters to train: guidance, answer, single; all by default.")
    ] = None,
) -> None:
    """Make the default model."""
    plan = CUDA if torch.cuda.is_available() else CPU
    try:
        if unknown := set(stage or ()) - set(STAGE_NAMES):
            raise UsageError(f"--stage {unknown.pop()} is no adapter.", f"Choose from {', '.join(STAGE_NAMES)}.")
        train_from_scratch(out, seed, work or Path("build") / f"word-problems-{seed}", plan, stage or STAGE_NAMES)
    except EdgeReasonError as error:
        plain_console(stderr=True).print(f"error: {error}", highlight=False)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
