"""`edgereason verify`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.parameters.common_options import Prompts, Thresholds

if TYPE_CHECKING:
    from edgereason.bundle import Bundle
    from edgereason.export.fidelity.references import StageSource


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle to verify.")],
    against: Annotated[
        tuple[str, str, str] | None,
        typer.Option(
            help="Base and adapters that the bundle was exported from; combined adapters as DIR:WEIGHT,DIR:WEIGHT.",
            metavar="BASE GUIDANCE ANSWER",
        ),
    ] = None,
    answer_base: Annotated[
        str | None,
        typer.Option(help="Base model of the answer stage, if different."),
    ] = None,
    reference_adapter: Annotated[
        list[str] | None,
        typer.Option(help="Reference adapter of an extrapolated model: DIR, or STAGE:DIR for one stage."),
    ] = None,
    prompts: Prompts = None,
    threshold: Thresholds = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Write the report to this file."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the report, as PNG."),
    ] = None,
) -> None:
    """Measure how close a bundle is to its base and unmerged adapters, step by step.

    Without --against: check the checksums, and compare the engine with the weights in the bundle.
    """
    from edgereason.bundle import Bundle
    from edgereason.cli.display.fidelity_reports import show_fidelity, show_report
    from edgereason.export.fidelity import parse_thresholds
    from edgereason.progress.consoles import plain_console

    thresholds = parse_thresholds(threshold or [])
    opened = Bundle.open(bundle)
    console = plain_console()
    console.print(f"All {len(opened.files)} files match their checksums.")
    if against is None:
        console.print("Fidelity measured by the export:" if opened.fidelity else "This bundle has no fidelity report.")
        show_fidelity(opened.fidelity, str(bundle), console)
    if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None:
        console.print('More checks need transformers: pip install "edgereason[export]"')
        return
    from edgereason.export.fidelity.measure import fidelity_error, measure_bundle
    from edgereason.progress.display import shown_progress

    with shown_progress("verifying", transient=False) as progress:
        sources = None if against is None else _open_sources(opened, against, answer_base, reference_adapter or [])
        report = measure_bundle(opened, sources, prompts=prompts, thresholds=thresholds, progress=progress)
    show_report(report, console, plot)
    if json_path is not None:
        json_path.write_text(json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if report.finding:
        raise fidelity_error(report)


def _open_sources(
    bundle: Bundle, against: tuple[str, str, str], answer_base: str | None, references: list[str]
) -> dict[str, StageSource]:
    from edgereason.bundle import STAGES
    from edgereason.export.fidelity.bundle_sources import open_sources
    from edgereason.export.fidelity.measure import require_memory
    from edgereason.export.inputs.adapter_arguments import parse_references, parse_stage

    base, guidance, answer = against
    adapters = (parse_stage(guidance), parse_stage(answer))
    sources = open_sources(bundle, base, *adapters, answer_base, parse_references(references, STAGES))
    require_memory(sources.values())
    return sources
