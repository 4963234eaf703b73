"""Options that several commands have, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Engine = Annotated[str, typer.Option(help="Inference engine: auto, native, llama.cpp or onnx.")]
Temperature = Annotated[float | None, typer.Option(help="Sampling temperature; 0 for greedy decoding.")]
Seed = Annotated[int | None, typer.Option(help="Random seed for sampling.")]
Calculator = Annotated[
    bool | None,
    typer.Option(
        "--calculator/--no-calculator",
        help="Evaluate computations such as <<16-3-4= in the answer exactly, or leave them to the model "
        "[default: as the answer model was trained]",
    ),
]
SpecialTokens = Annotated[
    bool,
    typer.Option(
        "--special-tokens", help="Encode special tokens in questions and guidance as such; by default they are text."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Sequences per batch.")]
Threads = Annotated[int | None, typer.Option(help="Number of CPU threads [default: one per physical core].")]
GpuLayers = Annotated[
    str, typer.Option(help="Layers that llama.cpp offloads to a GPU: a number, or auto for as many as it can.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="Questions for the fidelity check: one per line, or .jsonl with `question` and optional `guidance`."
    ),
]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(help="Fidelity limit, RUNG.MEASURE=VALUE, such as quantized.kl=0.05; repeatable."),
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
