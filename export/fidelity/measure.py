"""A bundle measured: both stages' ladders, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import ExportError, FidelityError
from edgereason.export.fidelity.ladder import Progress, climb
from edgereason.export.fidelity.layerwise_model import streamed_memory_needed
from edgereason.export.fidelity.limits import Limits, default_limits, parse_thresholds, with_thresholds
from edgereason.export.fidelity.questions import read_questions
from edgereason.export.fidelity.reference_model import available_memory, few_threads
from edgereason.export.fidelity.references import Origin, Source, itself, trained
from edgereason.export.fidelity.report import Report, StageReport

if TYPE_CHECKING:
    from edgereason.export.settings import Settings


def measure(
    bundle: Bundle,
    against: Mapping[str, Source] | None = None,
    *,
    prompts: Path | None = None,
    thresholds: Limits | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure how close a bundle is to what it was made from.

    Args:
        bundle: The bundle; its manifest need not be written yet.
        against: For each stage what it was made from. None compares the engine with the weights in the bundle's own
            files, and those files with each other: what can be known without base and adapters.
        prompts: A file of questions (see `questions.read_questions`), in place of those that ship with the package.
        thresholds: Limits in place of the default ones, by rung and measure.
        memory: Bytes that computing the reference may take, by default what is free: a model that needs more is read
            from its files layer by layer in each pass (see `streamed`).
        progress: Called as work goes on.

    Raises:
        UsageError: the questions cannot be used.
        BundleError, EngineError: the bundle or its engine cannot be used.
    """
    bits = int(bundle.quantization["bits"])
    limits = with_thresholds(default_limits(bits), thresholds or {})
    memory = available_memory() if memory is None else memory
    questions = read_questions(prompts)
    guidances = [question.guidance for question in questions]
    stages: dict[str, StageReport] = {}
    for stage in STAGES:
        origin = _origin(bundle, stage, against, memory)
        asked = [
            (question.text, guidance if stage == "answer" else None)
            for question, guidance in zip(questions, guidances, strict=True)
        ]
        with few_threads(origin.parameters):
            stages[stage], written = climb(bundle, stage, origin, asked, limits, _for_stage(stage, progress))
        # The answer model reads what the guidance model wrote, as it does when it is used.
        guidances = [given or text or None for given, text in zip(guidances, written, strict=True)]
    return Report("base + unmerged adapter, fp32" if against else "the weights in its own files", bits, stages)


def prove(bundle: Bundle, against: Mapping[str, Source], settings: Settings, progress: Progress | None) -> Bundle:
    """The bundle with what `measure` finds in its manifest.

    Raises:
        FidelityError: it loses more than allowed, and the settings do not allow the loss.
    """
    thresholds = parse_thresholds(settings.thresholds)
    report = measure(bundle, against, prompts=settings.prompts, thresholds=thresholds, progress=progress)
    recorded: dict[str, Any] = report.to_json()
    if report.finding and not settings.allow_loss:
        raise failure(report)
    return replace(bundle, fidelity={**recorded, "allow_loss": settings.allow_loss})


def failure(report: Report) -> FidelityError:
    """The error for a report with a finding."""
    finding = report.finding
    assert finding is not None
    return FidelityError(f"{finding.sentence} {finding.cause}", finding.cure, report.to_json())


def require_memory(sources: Iterable[Source]) -> None:
    """Refuse models of which not even the largest layer fits into memory in float32, which verifying takes.

    Raises:
        ExportError: that of one does not.
    """
    needed = max(streamed_memory_needed(source.base.shapes) for source in sources)
    free = available_memory()
    if free is not None and needed > free:
        raise ExportError(
            f"Verifying computes in float32, layer by layer, which needs about {needed / 1e9:.1f} GB of memory; "
            f"{free / 1e9:.1f} GB are free.",
            "Close other programs, verify on a larger machine, or leave it out with --no-verify.",
        )


def _origin(bundle: Bundle, stage: str, against: Mapping[str, Source] | None, memory: int | None) -> Origin:
    if against is None:
        return itself(bundle, stage, memory)
    return trained(bundle, stage, against[stage], memory)


def _for_stage(stage: str, progress: Progress | None) -> Callable[[str, int, int], None]:
    def report(what: str, done: int, total: int) -> None:
        if progress:
            progress(f"{stage}: {what}", done, total)

    return report
