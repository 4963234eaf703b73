"""`edgereason export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def export(
    base: Annotated[str, typer.Option(help="The base model: a Hugging Face directory or a hub id.")],
    guidance_adapter: Annotated[Path, typer.Option(help="The PEFT adapter that writes guidances.")],
    answer_adapter: Annotated[Path, typer.Option(help="The PEFT adapter that answers.")],
    out: Annotated[Path, typer.Option(help="The bundle's directory.")],
    answer_base: Annotated[
        Optional[str],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(help="The answer model's base where it is another one."),
    ] = None,
    format: Annotated[str, typer.Option(help="native, gguf or onnx.")] = "native",
    layout: Annotated[
        str, typer.Option(help="merged: one model per stage; shared: one base and two adapters.")
    ] = "merged",
    bits: Annotated[int, typer.Option(help="4, 8, or 16 for full precision.")] = 4,
    gguf_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Q4_0, Q4_K_M, Q8_0 or F16, in place of --bits."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
) -> None:
    """Merge a guidance and an answer adapter into their base, quantize, and write a bundle."""
    from rich.console import Console

    from edgereason.cli.progress import export_progress
    from edgereason.export import export as run

    console = Console(stderr=True)
    with export_progress(console) as progress:
        bundle = run(
            base,
            guidance_adapter,
            answer_adapter,
            out,
            answer_base=answer_base,
            format=format,
            layout=layout,
            bits=bits,
            gguf_type=gguf_type,
            replace=force,
            progress=progress,
        )
    size = sum(record.bytes for record in bundle.files.values())
    console.print(f"{bundle.path}: {bundle.format}, {size / 1e6:.1f} MB", highlight=False)
    console.print(f'Ask it: edgereason ask --bundle {bundle.path} "..."', highlight=False, style="dim")
