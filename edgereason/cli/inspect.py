"""`edgereason inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgereason.bundle import Bundle, Stage


def inspect(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle [default: the bundle inside the package]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show a bundle's contents and provenance, and check its checksums."""
    from edgereason.bundle import DEFAULT_BUNDLE, Bundle

    opened = Bundle.open(bundle if bundle is not None else DEFAULT_BUNDLE)
    if as_json:
        typer.echo(json.dumps(opened.to_json(), indent=2, ensure_ascii=False))
    else:
        _show(opened)


def _show(bundle: Bundle) -> None:
    from rich.table import Table
    from rich.text import Text

    from edgereason.cli.display.fidelity_reports import show_fidelity
    from edgereason.progress.consoles import plain_console

    console = plain_console()
    stored = ", ".join(f"{name} {value}" for name, value in bundle.quantization.items())
    console.print(f"{bundle.path}: {bundle.layout} {bundle.format} bundle for the engine {bundle.engine}", markup=False)
    console.print(f"weights: {stored} · written by {bundle.created_by}", markup=False)
    for name, stage in bundle.stages.items():
        origin = bundle.provenance[name]
        console.print(
            f"{name}: {origin['base']['name']} ({origin['base']['family']}) + {origin['adapter']['name']}, "
            f"maximum {stage.max_new_tokens} tokens{_traits(stage)}",
            markup=False,
        )
    table = Table("file", "bytes", "sha256", box=None)
    table.columns[1].justify = "right"
    for file, record in bundle.files.items():
        table.add_row(Text(file), f"{record.bytes:,}", f"{record.sha256[:16]}…")
    console.print(table)
    console.print("All files match their checksums.")
    show_fidelity(bundle.fidelity, str(bundle.path), console)


def _traits(stage: Stage) -> str:
    """Calculator and confidence threshold, if the stage has them."""
    prompt = stage.prompt
    confident = (
        "" if prompt.min_confidence is None else f", out of domain below a confidence of {prompt.min_confidence}"
    )
    return (", calculator" if prompt.calculator else "") + confident
