"""One export from beginning to end: checks first, then each stage merged and written, then the manifest."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgereason
from edgereason.bundle import BASE, STAGES, Bundle, Stage, record_files
from edgereason.errors import EngineError, UsageError
from edgereason.export.settings import Settings
from edgereason.export.staging import staged
from edgereason.text.prompts import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from edgereason.export.inputs.adapter_arguments import Source
    from edgereason.export.inputs.base_model import Adapter, Base
    from edgereason.export.inputs.merge import MergedWeights
    from edgereason.export.planning import Plan

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done, and how many there are."""

_LIBRARIES = {
    "native": (),
    "gguf": ("gguf", "llama_cpp"),
    "onnx": ("onnx", "onnxruntime", "onnxruntime_genai"),
    "gptq": (),
}


def export(
    base: str | Path,
    guidance_adapter: Source,
    answer_adapter: Source,
    out: str | Path,
    *,
    answer_base: str | Path | None = None,
    revision: str | None = None,
    reference_adapters: Mapping[str, str | Path] | None = None,
    replace: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Bundle:
    """Merge each adapter into its base, or keep both beside it; quantize, and write a bundle.

    Args:
        base: The base model: a Hugging Face directory or a hub id.
        guidance_adapter: A PEFT LoRA directory, trained to write guidances; or several, with their weights.
        answer_adapter: A PEFT LoRA directory, trained to answer; or several, with their weights.
        out: The bundle's directory. It appears when it is complete, or not at all.
        answer_base: The answer model's base where it is another one.
        revision: Of `base` where it is from the hub: a branch, tag or commit. The commit is recorded.
        reference_adapters: By stage the adapter from which `extrapolate` goes away.
        replace: Replace what is at `out`.
        resume: Go on with what an interrupted export of the same inputs has finished, and keep what this one finishes
            if it is interrupted.
        progress: Called as work goes on.
        options: The fields of `edgereason.export.Settings`, such as `format="gguf"` or `bits=8`.

    Returns:
        The finished bundle, opened.

    Raises:
        UsageError: an option is unknown, or its value is not among its choices.
        ExportError: base and adapters do not fit, or the bundle cannot be written.
        FidelityError: the bundle is further from base and adapters than allowed.
        EngineError: a library that the format needs is not installed.
    """
    settings = Settings.of(options)
    job = _prepare(base, guidance_adapter, answer_adapter, answer_base, revision, reference_adapters or {}, settings)
    bases, adapters = job.bases, job.adapters
    from edgereason.export.fidelity import references as origins
    from edgereason.export.fidelity.measure import prove
    from edgereason.export.formats.shared_layout import write_shared
    from edgereason.export.formats.stage_writers import write_merged
    from edgereason.export.inputs.base_model import describe, fingerprint
    from edgereason.export.planning import make_plan

    out = Path(out)
    make_plan(job.models, out, settings, timed=False).check()
    if settings.layout == "shared":
        merged: Mapping[str, MergedWeights] = {}
        write = partial(write_shared, bases["answer"], adapters)
    else:
        merged = job.models
        write = partial(write_merged, merged, {stage: adapters[stage].prompt for stage in STAGES})
    against = {stage: origins.Source(bases[stage], adapters[stage], merged.get(stage)) for stage in STAGES}
    provenance = {stage: describe(bases[stage], adapters[stage]) for stage in STAGES}
    key = [settings.of_files(), [fingerprint(bases[stage], adapters[stage]) for stage in STAGES], provenance]
    with staged(out, key, resume, replace) as staging:
        stop_ids, stored = write(staging, settings, partial(_report, progress=progress))
        prompts = {stage: adapters[stage].prompt for stage in STAGES}
        if settings.min_confidence is not None:
            prompts["guidance"] = dataclasses.replace(prompts["guidance"], min_confidence=settings.min_confidence)
        stages = {stage: Stage(prompts[stage], stop_ids[stage]) for stage in STAGES}
        if settings.ollama:
            _write_modelfiles(stages, staging.path)
        bundle = Bundle(
            path=staging.path,
            format=settings.format,
            layout=settings.layout,
            stages=stages,
            files=record_files(staging.path),
            quantization={"bits": settings.bits, **stored},
            provenance=provenance,
            created_by=f"edgereason {edgereason.__version__}",
        )
        if settings.verify:
            bundle = prove(bundle, against, settings, progress)
        bundle.write_manifest()
    return Bundle.open(out, verify=False)


def plan(
    base: str | Path,
    guidance_adapter: Source,
    answer_adapter: Source,
    out: str | Path,
    *,
    answer_base: str | Path | None = None,
    revision: str | None = None,
    reference_adapters: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> Plan:
    """Check the arguments of an export and tell what it would take, without doing it.

    Args and errors: as `export`. Whether there is enough disk and memory is left to `Plan.check`.
    """
    settings = Settings.of(options)
    job = _prepare(base, guidance_adapter, answer_adapter, answer_base, revision, reference_adapters or {}, settings)
    from edgereason.export.planning import make_plan

    return make_plan(job.models, Path(out), settings)


@dataclass(frozen=True)
class _Job:
    """The inputs of an export, checked."""

    bases: dict[str, Base]
    adapters: dict[str, Adapter]
    models: dict[str, MergedWeights]
    """What will be written: a model for each stage, or the base alone where they share it."""


def _prepare(
    base: str | Path,
    guidance_adapter: Source,
    answer_adapter: Source,
    answer_base: str | Path | None,
    revision: str | None,
    reference_adapters: Mapping[str, str | Path],
    settings: Settings,
) -> _Job:
    """Everything that can go wrong before any work begins."""
    _require(settings.format)
    from edgereason.export.formats.shared_layout import check_shared
    from edgereason.export.inputs.adapter_arguments import open_stage
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.merge import merge
    from edgereason.export.inputs.pairing import check_pairing

    if settings.layout == "shared" and answer_base is not None:
        raise UsageError("The shared layout has one base for both stages.", "Leave --answer-base or --layout out.")
    references = _references(reference_adapters, settings)
    first = open_base(base, settings.format, revision)
    bases = {"guidance": first, "answer": first if answer_base is None else open_base(answer_base, settings.format)}
    named = {"guidance": guidance_adapter, "answer": answer_adapter}
    adapters = {s: open_stage(named[s], references.get(s), DEFAULT_PROMPTS[s], settings) for s in STAGES}
    for stage in STAGES:
        check_pairing(bases[stage], adapters[stage], settings.layout)
    if settings.layout == "shared":
        check_shared(first, adapters, settings.format)
        return _Job(bases, adapters, {BASE: merge(first)})
    return _Job(bases, adapters, {stage: merge(bases[stage], adapters[stage]) for stage in STAGES})


def _write_modelfiles(stages: Mapping[str, Stage], directory: Path) -> None:
    from edgereason.export.gguf.ollama import write_modelfile

    for name, stage in stages.items():
        write_modelfile(stage, directory / name)


def _references(references: Mapping[str, str | Path], settings: Settings) -> Mapping[str, str | Path]:
    if bool(references) != (settings.extrapolate is not None):
        raise UsageError(
            "extrapolate and reference-adapter belong together.", "Give both: how far to go, and away from what."
        )
    if unknown := set(references) - set(STAGES):
        raise UsageError(f"There is no stage {min(unknown)!r}.", f"The stages are {' and '.join(STAGES)}.")
    return references


def _report(stage: str, progress: Progress | None) -> Progress:
    def report(what: str, done: int, total: int) -> None:
        if progress:
            progress(f"{stage}: {what}", done, total)

    return report


def _require(format: str) -> None:
    """Make sure that the libraries are there before any work begins."""
    for module in ("torch", "transformers", "peft", *_LIBRARIES[format]):
        if importlib.util.find_spec(module) is None:
            raise EngineError(f"Exporting to {format} needs {module}.", 'Install it: pip install "edgereason[export]"')
