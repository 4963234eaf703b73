"""Options that several commands have, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# Optional[...] in place of X | None: typer evaluates these on Python 3.10, too.
Engine = Annotated[str, typer.Option(help="auto, native, llama.cpp or onnx.")]
Temperature = Annotated[Optional[float], typer.Option(help="0 for greedy decoding.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Makes sampling repeatable.")]  # noqa: UP045
Calculator = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--calculator/--no-calculator",
        help="Compute what the answer writes as <<16-3-4=, or leave that to the model "
        "[default: compute where the answer model was trained to write so]",
    ),
]
Threads = Annotated[Optional[int], typer.Option(help="Threads to compute with.")]  # noqa: UP045
GpuLayers = Annotated[
    str, typer.Option(help="Layers that llama.cpp computes on a GPU: a number, or auto for all that its build can.")
]
Prompts = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Questions to verify with: one per line, or .jsonl with `question` and perhaps `guidance`."),
]
Thresholds = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(help="What a rung may lose: RUNG.MEASURE=VALUE, such as quantized.kl=0.05. Can be repeated."),
]


def layers_on_gpu(value: str) -> int | None:
    """`--gpu-layers`: a number, or None for `auto`.

    Raises:
        UsageError: it is neither.
    """
    from edgereason.errors import UsageError

    if value != "auto" and not value.isdecimal():
        raise UsageError(f"gpu-layers is {value}.", "Give a number of layers, or auto.")
    return None if value == "auto" else int(value)
