"""`edgereason export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from edgereason.cli.options import Prompts, Thresholds


def export(
    base: Annotated[str, typer.Option(help="The base model: a Hugging Face directory or a hub id.")],
    guidance_adapter: Annotated[
        list[str], typer.Option(help="The PEFT adapter that writes guidances; several: DIR:WEIGHT, repeated.")
    ],
    answer_adapter: Annotated[
        list[str], typer.Option(help="The PEFT adapter that answers; several: DIR:WEIGHT, repeated.")
    ],
    out: Annotated[Path, typer.Option(help="The bundle's directory.")],
    answer_base: Annotated[
        Optional[str],  # noqa: UP045  (typer reads the annotation on Python 3.10)
        typer.Option(help="The answer model's base where it is another one."),
    ] = None,
    revision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Branch, tag or commit of a base from the hub."),
    ] = None,
    combine: Annotated[
        str, typer.Option(help="How several adapters become one: linear, ties, dare_linear, dare_ties or cat.")
    ] = "linear",
    density: Annotated[float, typer.Option(help="The share of values that ties and dare keep.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of what dare draws.")] = 0,
    extrapolate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Go so far beyond the adapters, away from --reference-adapter (ExPO)."),
    ] = None,
    reference_adapter: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Where --extrapolate goes away from: DIR, or STAGE:DIR for one stage."),
    ] = None,
    format: Annotated[str, typer.Option(help="native, gguf, onnx or gptq.")] = "native",
    layout: Annotated[
        str, typer.Option(help="merged: one model per stage; shared: one base and two adapters.")
    ] = "merged",
    bits: Annotated[int, typer.Option(help="4, 8, or 16 for full precision; onnx: 32, too.")] = 4,
    gguf_type: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="IQ4_XS, Q4_0, Q4_K_M, Q5_K_M, Q6_K, Q8_0 or F16, in place of --bits."),
    ] = None,
    imatrix: Annotated[
        bool, typer.Option("--imatrix/--no-imatrix", help="Round GGUF types of 4 bits by an importance matrix.")
    ] = True,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="Write a Modelfile for Ollama beside each stage's GGUF file.")
    ] = False,
    method: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="How weights are rounded: rtn (to nearest) or gptq [default: rtn; gptq for --format gptq]."),
    ] = None,
    group_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Inputs that share a scale; -1 for one scale per output [default: rtn 32, gptq 128]."),
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric/--asymmetric", help="Zero points in the middle, or one for each group.")
    ] = True,
    act_order: Annotated[bool, typer.Option(help="gptq: round the inputs of large activations first.")] = True,
    static_groups: Annotated[bool, typer.Option(help="gptq: groups of neighbouring inputs even so.")] = True,
    damping: Annotated[float, typer.Option(help="gptq: what is added to the statistics' diagonal.")] = 0.01,
    clip_search: Annotated[bool, typer.Option(help="gptq: narrow the ranges of groups for less error.")] = True,
    calibration: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A .jsonl or .txt file of calibration text, in place of what ships with the package."),
    ] = None,
    target_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="gptq: 8 bits where they help most, as far as a model file of this size allows: 400MB."),
    ] = None,
    target_kl: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="gptq: 8 bits in as few layers as bring the divergence (nats per token) to this."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted export; keep the work of this one if it is.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Measure the bundle against base and unmerged adapters at the end."),
    ] = True,
    prompts: Prompts = None,
    threshold: Thresholds = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Keep a bundle that loses more; its manifest says so.")
    ] = False,
    plot: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Draw what was measured here, as PNG."),
    ] = None,
    min_confidence: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="The confidence below which a question is outside of what the guidance model knows."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show sizes, disk, memory and time; write nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
) -> None:
    """Merge a guidance and an answer adapter into their base, quantize, and write a bundle."""
    from rich.console import Console

    from edgereason.bundle import STAGES
    from edgereason.cli.display.export_plan import show_plan
    from edgereason.cli.display.progress import export_progress, shown_warnings
    from edgereason.cli.verify import show_fidelity
    from edgereason.errors import FidelityError
    from edgereason.export import export as run
    from edgereason.export import plan
    from edgereason.export.inputs.adapter_arguments import parse_adapters, parse_references
    from edgereason.export.settings import parse_size

    console = Console(stderr=True)
    inputs = (base, parse_adapters(guidance_adapter), parse_adapters(answer_adapter), out)
    options: dict[str, Any] = {
        "answer_base": answer_base,
        "revision": revision,
        "reference_adapters": parse_references(reference_adapter or [], STAGES),
        "combine": combine,
        "density": density,
        "seed": seed,
        "extrapolate": extrapolate,
        "format": format,
        "layout": layout,
        "bits": bits,
        "gguf_type": gguf_type,
        "imatrix": imatrix,
        "ollama": ollama,
        "method": method,
        "group_size": group_size,
        "symmetric": symmetric,
        "act_order": act_order,
        "static_groups": static_groups,
        "damping": damping,
        "clip_search": clip_search,
        "calibration": calibration,
        "target_size": None if target_size is None else parse_size(target_size),
        "target_kl": target_kl,
        "verify": verify,
        "prompts": prompts,
        "thresholds": tuple(threshold or ()),
        "allow_loss": allow_loss,
        "min_confidence": min_confidence,
    }
    if dry_run:
        with shown_warnings(console):
            planned = plan(*inputs, **options)
        show_plan(planned, console)
        planned.check()
        return
    try:
        with shown_warnings(console), export_progress(console) as progress:
            bundle = run(*inputs, **options, replace=force, resume=resume, progress=progress)
    except FidelityError as error:
        show_fidelity(error.report, "the export", console, plot)
        raise
    show_fidelity(bundle.fidelity, str(bundle.path), console, plot)
    size = sum(record.bytes for record in bundle.files.values())
    console.print(f"{bundle.path}: {bundle.format}, {size / 1e6:.1f} MB", highlight=False)
    console.print(f'Ask it: edgereason ask --bundle {bundle.path} "..."', highlight=False, style="dim")
