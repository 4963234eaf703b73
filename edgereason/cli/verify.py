"""`edgereason verify`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgereason.cli.options import Prompts, Thresholds

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.bundle import Bundle
    from edgereason.export.fidelity import Report
    from edgereason.export.fidelity.references import Source


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    against: Annotated[
        Optional[tuple[str, str, str]],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(
            help="What it was made from: base, guidance adapter, answer adapter; of several DIR:WEIGHT,DIR:WEIGHT.",
            metavar="BASE GUIDANCE ANSWER",
        ),
    ] = None,
    answer_base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The answer model's base where it is another one."),
    ] = None,
    reference_adapter: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Where an extrapolated model goes away from: DIR, or STAGE:DIR for one stage."),
    ] = None,
    prompts: Prompts = None,
    threshold: Thresholds = None,
    json_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", help="Write the report here."),
    ] = None,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw the report here, as PNG."),
    ] = None,
) -> None:
    """Measure how close a bundle is to base and unmerged adapters, rung by rung.

    Without --against: check its files against their sums, and its engine against the weights in its files.
    """
    from rich.console import Console

    from edgereason.bundle import Bundle
    from edgereason.cli.display.progress import export_progress
    from edgereason.export.fidelity import parse_thresholds

    thresholds = parse_thresholds(threshold or [])
    opened = Bundle.open(bundle)
    console = Console(highlight=False)
    console.print(f"All {len(opened.files)} files agree with their checksums.")
    if against is None:
        console.print("When it was exported:" if opened.fidelity else "Nobody has measured it against its base.")
        show_fidelity(opened.fidelity, str(bundle), console)
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        console.print('Verifying more than that needs transformers: pip install "edgereason[export]"')
        return
    from edgereason.export.fidelity.measure import failure, measure

    sources = None if against is None else _open_sources(opened, against, answer_base, reference_adapter or [])
    with export_progress(Console(stderr=True)) as progress:
        report = measure(opened, sources, prompts=prompts, thresholds=thresholds, progress=progress)
    _show(report, console, plot)
    if json_path is not None:
        json_path.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if report.finding:
        raise failure(report)


def _open_sources(
    bundle: Bundle, against: tuple[str, str, str], answer_base: str | None, references: list[str]
) -> dict[str, Source]:
    from edgereason.bundle import STAGES
    from edgereason.export.fidelity.bundle_sources import open_sources
    from edgereason.export.fidelity.measure import require_memory
    from edgereason.export.inputs.adapter_arguments import parse_references, parse_stage

    base, guidance, answer = against
    adapters = (parse_stage(guidance), parse_stage(answer))
    sources = open_sources(bundle, base, *adapters, answer_base, parse_references(references, STAGES))
    require_memory(sources.values())
    return sources


def show_fidelity(fidelity: Mapping[str, Any], where: str, console: Console, plot: Path | None = None) -> Report | None:
    """Print a report as manifests hold it, and draw it where that is wanted; None where it is empty."""
    from edgereason.export.fidelity import Report

    if not fidelity:
        return None
    report = Report.from_json(fidelity, where)
    _show(report, console, plot)
    if report.finding and fidelity.get("allow_loss"):
        console.print(f"{report.finding.sentence} This loss was allowed (--allow-loss).", style="red", markup=False)
    return report


def _show(report: Report, console: Console, plot: Path | None) -> None:
    console.print(f"Compared with {report.reference}:", highlight=False)
    for table in report.tables():
        console.print(table)
    if plot is not None:
        from edgereason.export.fidelity.plot import draw

        draw(report, plot)
