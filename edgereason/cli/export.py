"""`edgereason export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from edgereason.cli.parameters.common_options import Prompts, Thresholds


def export(
    base: Annotated[str, typer.Option(help="Base model: a Hugging Face directory, a GGUF file or a hub id.")],
    guidance_adapter: Annotated[
        list[str], typer.Option(help="PEFT adapter of the guidance model; repeat as DIR:WEIGHT to combine several.")
    ],
    answer_adapter: Annotated[
        list[str], typer.Option(help="PEFT adapter of the answer model; repeat as DIR:WEIGHT to combine several.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the new bundle.")],
    answer_base: Annotated[
        str | None,
        typer.Option(help="Base model of the answer stage, if different."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of a base model on the hub."),
    ] = None,
    combine: Annotated[
        str, typer.Option(help="How to combine several adapters: linear, ties, dare_linear, dare_ties or cat.")
    ] = "linear",
    density: Annotated[float, typer.Option(help="TIES and DARE: share of the values to keep.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Random seed for DARE.")] = 0,
    extrapolate: Annotated[
        float | None,
        typer.Option(help="Extrapolate the adapters away from --reference-adapter by this factor (ExPO)."),
    ] = None,
    reference_adapter: Annotated[
        list[str] | None,
        typer.Option(help="Adapter to extrapolate from: DIR, or STAGE:DIR for one stage."),
    ] = None,
    format: Annotated[str, typer.Option(help="Format of the weights: native, gguf, onnx or gptq.")] = "native",
    layout: Annotated[
        str, typer.Option(help="merged: one model per stage; shared: one base model and two adapters.")
    ] = "merged",
    bits: Annotated[int, typer.Option(help="Bits per weight: 4, 8 or 16 (not quantized); ONNX also 32.")] = 4,
    gguf_type: Annotated[
        str | None,
        typer.Option(help="GGUF quantization type instead of --bits: IQ4_XS, Q4_0, Q4_K_M, Q5_K_M, Q6_K, Q8_0 or F16."),
    ] = None,
    imatrix: Annotated[
        bool, typer.Option("--imatrix/--no-imatrix", help="GGUF: quantize 4-bit types with an importance matrix.")
    ] = True,
    ollama: Annotated[bool, typer.Option("--ollama", help="GGUF: write an Ollama Modelfile for each stage.")] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help="Quantization method: rtn (round to nearest) or gptq [default: rtn; gptq for --format gptq]."
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Quantization group size; -1 for per-channel scales [default: 32 for rtn, 128 for gptq]."),
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric/--asymmetric", help="Symmetric quantization, or a zero point per group.")
    ] = True,
    act_order: Annotated[
        bool, typer.Option(help="GPTQ: quantize columns in order of decreasing activation size.")
    ] = True,
    static_groups: Annotated[
        bool, typer.Option(help="GPTQ: fix the groups before act-order permutes the columns.")
    ] = True,
    dampening: Annotated[
        float, typer.Option(help="GPTQ: dampening, as a share of the Hessian's mean diagonal.")
    ] = 0.01,
    clip_search: Annotated[
        bool, typer.Option(help="GPTQ: search for clipping ranges that minimize the quantization error.")
    ] = True,
    calibration_text: Annotated[
        Path | None,
        typer.Option(help="Calibration text, .jsonl or .txt [default: the text inside the package]."),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            help="GPTQ mixed precision: 8 bits for the most sensitive layers, up to this model size, such as 400MB."
        ),
    ] = None,
    target_kl: Annotated[
        float | None,
        typer.Option(
            help="GPTQ mixed precision: 8 bits for as few layers as reach this KL divergence, in nats per token."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume an interrupted export; keep intermediate results in case this one is interrupted."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Compare the bundle with base and unmerged adapters in full precision."
        ),
    ] = True,
    prompts: Prompts = None,
    threshold: Thresholds = None,
    allow_loss: Annotated[
        bool,
        typer.Option("--allow-loss", help="Keep a bundle that exceeds a fidelity limit; its manifest records that."),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Plot the fidelity report, as PNG."),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(help="Confidence below which a question counts as out of domain (see calibrate)."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the inputs and estimate size, disk, memory and time; write nothing."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the bundle at --out.")] = False,
) -> None:
    """Export a base and its two adapters as a quantized bundle, and check its fidelity."""
    from edgereason.bundle import STAGES
    from edgereason.cli.display.export_plan import show_plan
    from edgereason.cli.display.fidelity_reports import show_fidelity
    from edgereason.cli.display.warning_sentences import shown_warnings
    from edgereason.errors import FidelityError
    from edgereason.export import export as run
    from edgereason.export import plan
    from edgereason.export.inputs.adapter_arguments import parse_adapters, parse_references
    from edgereason.export.settings import parse_size
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    console = plain_console(stderr=True)
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
        "dampening": dampening,
        "clip_search": clip_search,
        "calibration_text": calibration_text,
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
        with shown_warnings(console), shown_progress("exporting", console=console, transient=False) as progress:
            bundle = run(*inputs, **options, replace=force, resume=resume, progress=progress)
    except FidelityError as error:
        show_fidelity(error.report, "the export", console, plot)
        raise
    show_fidelity(bundle.fidelity, str(bundle.path), console, plot)
    size = sum(record.bytes for record in bundle.files.values())
    console.print(f"{bundle.path}: {bundle.format}, {size / 1e6:.1f} MB", soft_wrap=True)
    console.print(f'Ask it: edgereason ask --bundle {shlex.quote(str(bundle.path))} "..."', style="dim", soft_wrap=True)
