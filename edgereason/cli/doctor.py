"""`edgereason doctor`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgereason.doctor import Examination


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the hardware, test each engine, and say how to fix those that fail."""
    from edgereason.doctor import examine

    examination = examine()
    if as_json:
        typer.echo(json.dumps(examination.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(examination)


def _show(examination: Examination) -> None:
    from rich.table import Table

    from edgereason.progress.consoles import plain_console

    console = plain_console()
    console.print(f"CPU      {examination.cpu}, {examination.cores} cores for this process", markup=False)
    console.print(f"memory   {examination.memory_gb:.1f} GB", markup=False)
    console.print(f"kernels  {examination.isa} (supported here: {', '.join(examination.isas)})", markup=False)
    table = Table("engine", "version", "works here", box=None)
    for engine in examination.engines:
        table.add_row(engine.engine, engine.version or "not installed", "yes" if engine.works else "no")
    console.print(table)
    if examination.gpu is not None:
        offload = "yes, see --gpu-layers" if examination.gpu else "no, this build is CPU only"
        console.print(f"llama.cpp on a GPU: {offload}", markup=False)
    for engine in examination.engines:
        if not engine.works:
            console.print(f"{engine.engine}: {engine.problem}\n  {engine.cure}", markup=False)
