"""The fidelity of a bundle: both stages' ladders, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import ExportError, FidelityError
from edgereason.export.fidelity.ladder import measure_stage
from edgereason.export.fidelity.layerwise_model import layerwise_memory_needed
from edgereason.export.fidelity.limits import Limits, default_limits, parse_thresholds, with_thresholds
from edgereason.export.fidelity.questions import read_verification_questions
from edgereason.export.fidelity.reference_model import available_memory, few_threads
from edgereason.export.fidelity.references import StageReference, StageSource, reference_of_bundle, reference_of_source
from edgereason.export.fidelity.report import FidelityReport, StageReport
from edgereason.export.inputs.export_errors import library_errors
from edgereason.export.progress_callbacks import Progress, for_stage

if TYPE_CHECKING:
    from edgereason.export.settings import Settings


_CURE = "Make sure that this library can use base, adapter and tokenizer, or export without the proof (--no-verify)."


def measure_bundle(
    bundle: Bundle,
    sources: Mapping[str, StageSource] | None = None,
    *,
    prompts: Path | None = None,
    thresholds: Limits | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> FidelityReport:
    """Measure how close a bundle is to what it was made from.

    Args:
        bundle: The bundle; its manifest need not be written yet.
        sources: What each stage was made from. None: without base and adapters, the engine is compared with the weights
            in the bundle's own files, and those files with each other.
        prompts: A file of questions (see `questions.read_verification_questions`); None: those that ship with the
            package.
        thresholds: Limits in place of the default ones, by rung and measure.
        memory: Maximum bytes for the reference, by default the available memory: a model that needs more is read from
            its files layer by layer in each forward pass (see `layerwise_model`).
        progress: Called as work goes on.

    Raises:
        UsageError: the questions cannot be used.
        BundleError, EngineError: the bundle or its engine cannot be used.
        ExportError: transformers, PEFT or another library fails on what the bundle was made from.
    """
    bits = int(bundle.quantization["bits"])
    limits = with_thresholds(default_limits(bits), thresholds or {})
    memory = available_memory() if memory is None else memory
    questions = read_verification_questions(prompts)
    guidance = [question.guidance for question in questions]
    progress = progress or (lambda name, done, total: None)
    stages: dict[str, StageReport] = {}
    for stage in STAGES:
        asked = [
            (question.text, given if stage == "answer" else None)
            for question, given in zip(questions, guidance, strict=True)
        ]
        with library_errors(f"The proof of the {stage} model", _CURE):
            reference = _reference(bundle, stage, sources, memory)
        with few_threads(reference.parameters), library_errors(f"The proof of the {stage} model", _CURE):
            stages[stage], written = measure_stage(bundle, stage, reference, asked, limits, for_stage(progress, stage))
        # The answer model reads what the guidance model wrote, as in use.
        guidance = [given or text or None for given, text in zip(guidance, written, strict=True)]
    return FidelityReport("base + unmerged adapter, fp32" if sources else "the weights in its own files", bits, stages)


def verified(
    bundle: Bundle, sources: Mapping[str, StageSource], settings: Settings, progress: Progress | None
) -> Bundle:
    """The bundle with the report of `measure_bundle` in its manifest.

    Raises:
        FidelityError: it exceeds its limits, and the settings do not allow the loss.
    """
    thresholds = parse_thresholds(settings.thresholds)
    report = measure_bundle(bundle, sources, prompts=settings.prompts, thresholds=thresholds, progress=progress)
    recorded: dict[str, Any] = report.to_json()
    if report.finding and not settings.allow_loss:
        raise fidelity_error(report)
    return replace(bundle, fidelity={**recorded, "allow_loss": settings.allow_loss})


def fidelity_error(report: FidelityReport) -> FidelityError:
    """The error for a report with a finding."""
    finding = report.finding
    assert finding is not None
    return FidelityError(f"{finding.sentence} {finding.cause}", finding.cure, report.to_json())


def require_memory(sources: Iterable[StageSource]) -> None:
    """Make sure that the largest layer in float32, which verification needs, fits into memory.

    Raises:
        ExportError: it does not.
    """
    needed = max(layerwise_memory_needed(source.base.shapes) for source in sources)
    free = available_memory()
    if free is not None and needed > free:
        raise ExportError(
            f"Verification in float32, layer by layer, needs about {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free.",
            "Close other programs, verify on a larger machine, or skip verification with --no-verify.",
        )


def _reference(
    bundle: Bundle, stage: str, sources: Mapping[str, StageSource] | None, memory: int | None
) -> StageReference:
    if sources is None:
        return reference_of_bundle(bundle, stage, memory)
    return reference_of_source(bundle, stage, sources[stage], memory)
