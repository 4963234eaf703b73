"""One export from beginning to end: checks, then each stage merged and written, then fidelity and the manifest."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgereason.bundle import BASE, STAGES, Bundle, Stage
from edgereason.errors import EngineError, UsageError
from edgereason.export.progress_callbacks import Progress, for_stage
from edgereason.export.settings import Settings
from edgereason.export.staging import check_out, staged
from edgereason.text.prompts import DEFAULT_PROMPTS
from edgereason.version import __version__

if TYPE_CHECKING:
    from edgereason.export.inputs.adapter import Adapter
    from edgereason.export.inputs.adapter_arguments import AdapterSource
    from edgereason.export.inputs.base_model import Base
    from edgereason.export.inputs.merged_weights import MergedWeights
    from edgereason.export.planning import ExportPlan

_LIBRARIES = {
    "native": (),
    "gguf": ("gguf", "llama_cpp"),
    "onnx": ("onnx", "onnxruntime", "onnxruntime_genai"),
    "gptq": (),
}


def export(
    base: str | Path,
    guidance_adapter: AdapterSource,
    answer_adapter: AdapterSource,
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
        guidance_adapter: A PEFT LoRA directory, trained to write guidance; or several, with their weights.
        answer_adapter: A PEFT LoRA directory, trained to answer; or several, with their weights.
        out: The bundle's directory. It appears when it is complete, or not at all.
        answer_base: The answer model's base where it is another one.
        revision: Branch, tag or commit of a `base` from the hub. The commit is recorded.
        reference_adapters: By stage, the reference adapter of `extrapolate`.
        replace: Replace the bundle at `out`. Nothing else is replaced, nor a bundle with files that are not its own.
        resume: Resume an interrupted export of the same inputs, and keep this one's work if it is interrupted.
        progress: Called as work goes on.
        options: The fields of `edgereason.export.Settings`, such as `format="gguf"` or `bits=8`.

    Returns:
        The finished bundle, opened.

    Raises:
        UsageError: an option is unknown, or its value is not among its choices.
        ExportError: base and adapters do not fit, or the bundle cannot be written, or not there.
        FidelityError: the bundle is further from base and adapters than its limits allow.
        EngineError: a library that the format needs is not installed.
    """
    settings = Settings.of(options)
    out = Path(out)
    check_out(out, replace)
    job = _prepare(base, guidance_adapter, answer_adapter, answer_base, revision, reference_adapters or {}, settings)
    bases, adapters = job.bases, job.adapters
    check_out(out, replace, inputs := _inputs(job, settings))
    from edgereason.export.fidelity.measure import verified
    from edgereason.export.fidelity.references import StageSource
    from edgereason.export.formats.shared_layout import write_shared
    from edgereason.export.formats.stage_writers import write_merged
    from edgereason.export.inputs.tokenizer_files import settled_prompt
    from edgereason.export.planning import plan_models

    progress = progress or (lambda name, done, total: None)
    plan_models(job.models, out, settings, timed=False).check()
    if settings.layout == "shared":
        merged: Mapping[str, MergedWeights] = {}
        write = partial(write_shared, bases["answer"], adapters)
    else:
        merged = job.models
        write = partial(write_merged, merged, {stage: adapters[stage].prompt for stage in STAGES})
    sources = {stage: StageSource(bases[stage], adapters[stage], merged.get(stage)) for stage in STAGES}
    provenance, key = _identity(bases, adapters, settings, progress)
    with staged(out, key, resume, replace, inputs) as staging:
        stop_ids, stored = write(staging, settings, partial(for_stage, progress))
        prompts = {stage: settled_prompt(adapters[stage].prompt, staging.path / stage) for stage in STAGES}
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
            files=staging.files(),
            quantization={"bits": settings.bits, **stored},
            provenance=provenance,
            created_by=f"edgereason {__version__}",
        )
        if settings.verify:
            bundle = verified(bundle, sources, settings, progress)
        bundle.write_manifest()
        Bundle.open(staging.path, verify=False)  # what its reader refuses replaces nothing
    return Bundle.open(out, verify=False)


def plan(
    base: str | Path,
    guidance_adapter: AdapterSource,
    answer_adapter: AdapterSource,
    out: str | Path,
    *,
    answer_base: str | Path | None = None,
    revision: str | None = None,
    reference_adapters: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> ExportPlan:
    """Check the arguments of an export and estimate its sizes, disk, memory and time, without exporting.

    Args and errors: as `export`. `ExportPlan.check` tells whether there is enough disk and memory.
    """
    settings = Settings.of(options)
    job = _prepare(base, guidance_adapter, answer_adapter, answer_base, revision, reference_adapters or {}, settings)
    from edgereason.export.planning import plan_models

    return plan_models(job.models, Path(out), settings)


@dataclass(frozen=True)
class _Job:
    """The inputs of an export, checked."""

    bases: dict[str, Base]
    adapters: dict[str, Adapter]
    models: dict[str, MergedWeights]
    """The models to write: one per stage, or the base alone in the layout `shared`."""


def _prepare(
    base: str | Path,
    guidance_adapter: AdapterSource,
    answer_adapter: AdapterSource,
    answer_base: str | Path | None,
    revision: str | None,
    reference_adapters: Mapping[str, str | Path],
    settings: Settings,
) -> _Job:
    """Check all that can be checked before any work begins."""
    _require(settings.format)
    from edgereason.export.fidelity.limits import parse_thresholds
    from edgereason.export.fidelity.questions import read_verification_questions
    from edgereason.export.formats.shared_layout import check_shared
    from edgereason.export.formats.supported_families import check_family
    from edgereason.export.inputs.adapter_arguments import open_stage_adapter
    from edgereason.export.inputs.base_model import open_base
    from edgereason.export.inputs.export_errors import as_export_errors
    from edgereason.export.inputs.merge import merge
    from edgereason.export.inputs.pairing import check_pairing
    from edgereason.text.tokenizer import end_tokens

    parse_thresholds(settings.thresholds)
    read_verification_questions(settings.prompts)
    if settings.layout == "shared" and answer_base is not None:
        raise UsageError(
            "The shared layout has one base for both stages, and answer-base names another.",
            "Leave --answer-base or --layout out.",
        )
    references = _references(reference_adapters, settings)
    first = open_base(base, revision)
    bases = {"guidance": first, "answer": first if answer_base is None else open_base(answer_base)}
    for each in bases.values():
        check_family(each, settings.format)
        with as_export_errors():
            for name in ("config.json", "generation_config.json"):
                end_tokens(each.path / name)
    named = {"guidance": guidance_adapter, "answer": answer_adapter}
    adapters = {s: open_stage_adapter(named[s], references.get(s), DEFAULT_PROMPTS[s], settings) for s in STAGES}
    for stage in STAGES:
        check_pairing(bases[stage], adapters[stage], settings.layout)
    if settings.layout == "shared":
        check_shared(first, adapters, settings.format)
        return _Job(bases, adapters, {BASE: merge(first)})
    return _Job(bases, adapters, {stage: merge(bases[stage], adapters[stage]) for stage in STAGES})


def _inputs(job: _Job, settings: Settings) -> list[Path]:
    """All files and directories that an export reads."""
    adapters = [adapter.path for stage in job.adapters.values() for adapter in stage.every]
    named = [path for path in (settings.prompts, settings.calibration_text) if path is not None]
    bases = [base.gguf or base.path for base in job.bases.values()]
    return [*bases, *adapters, *named]


def _write_modelfiles(stages: Mapping[str, Stage], directory: Path) -> None:
    from edgereason.export.gguf.ollama import write_modelfile

    for name, stage in stages.items():
        write_modelfile(stage, directory / name)


def _references(references: Mapping[str, str | Path], settings: Settings) -> Mapping[str, str | Path]:
    if bool(references) != (settings.extrapolate is not None):
        raise UsageError("extrapolate and reference-adapter need each other.", "Give both, or neither.")
    if unknown := set(references) - set(STAGES):
        raise UsageError(f"There is no stage {min(unknown)!r}.", f"The stages are {' and '.join(STAGES)}.")
    return references


def _identity(
    bases: Mapping[str, Base], adapters: Mapping[str, Adapter], settings: Settings, progress: Progress
) -> tuple[dict[str, dict[str, Any]], list[Any]]:
    """Where each stage comes from, and the key by which an interrupted export is found again."""
    from edgereason.export.inputs.provenance import describe_stage, small_file_checksums

    provenance = {
        stage: describe_stage(bases[stage], adapters[stage], partial(for_stage(progress, stage), "checksums"))
        for stage in STAGES
    }
    checksums = [small_file_checksums(bases[stage], adapters[stage]) for stage in STAGES]
    return provenance, [settings.of_files(), checksums, provenance]


def _require(format: str) -> None:
    """Make sure that the libraries are there before any work begins."""
    for module in ("torch", "transformers", "peft", *_LIBRARIES[format]):
        if importlib.util.find_spec(module) is None:
            raise EngineError(f"Exporting to {format} needs {module}.", 'Install it: pip install "edgereason[export]"')
