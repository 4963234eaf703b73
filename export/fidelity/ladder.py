"""The ladder: one stage of a bundle measured rung by rung, from base and unmerged adapter to the running engine.

All rungs compute the same token ids, the reference's, so that each shows only its own loss. A text is a prompt and its
continuation by the reference, decoded greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgereason.bundle import Bundle
from edgereason.errors import UsageError
from edgereason.export.fidelity import evidence
from edgereason.export.fidelity import exact_rungs as exact
from edgereason.export.fidelity.distance import ComparedText, Logits, Predictions, make_texts, measure_distance, predict
from edgereason.export.fidelity.evidence import Evidence
from edgereason.export.fidelity.limits import Limits, in_whole_counts
from edgereason.export.fidelity.reference_model import SMALL
from edgereason.export.fidelity.references import StageReference
from edgereason.export.fidelity.report import TITLES, Rung, StageReport
from edgereason.export.progress_callbacks import Progress, StepProgress, part_of
from edgereason.language_model import LanguageModel, load_model
from edgereason.text.tokenizer import Tokenizer

_MIN_NEW_TOKENS = 8

Asked = tuple[str, str | None]
"""A question, and the guidance that goes with it where there is one."""


def measure_stage(
    bundle: Bundle, stage: str, origin: StageReference, asked: Sequence[Asked], limits: Limits, progress: Progress
) -> tuple[StageReport, list[str]]:
    """Measure one stage. Prompts that leave no room in the model's context are skipped, and counted.

    Returns:
        Its report, and the reference's texts for each of `asked`; empty where the prompt was skipped.

    Raises:
        UsageError: no prompt fits into the model's context.
        BundleError, EngineError: the bundle or its engine cannot be used.
    """
    rendered = [exact.render_prompt(origin.tokenizer, origin.prompt, *each) for each in asked]
    prompts: list[list[int]] = origin.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    fitting = _fitting(origin, prompts)
    texts, reference, continued = _reference(origin, [prompts[index] for index in fitting], progress)
    written = [dict(zip(fitting, continued, strict=True)).get(index, "") for index in range(len(prompts))]
    positions = sum(len(text.targets) for text in texts)
    limits = in_whole_counts(limits, positions, len(texts))
    rungs = _exact_rungs(bundle, stage, origin, asked, [*rendered, *written], limits, progress)
    before = reference
    for rung, predictions in _weight_rungs(origin, texts, reference, limits, progress):
        rungs.append(rung)
        before = predictions
    threads = 1 if origin.parameters < SMALL else None
    with load_model(bundle.path / stage, threads=threads) as model:
        distance, _ = measure_distance(
            texts, reference, before, _engine_logits(model, texts, _steps(progress, "engine"))
        )
    rungs.append(Rung("engine", distance.to_json(), limits["engine"]))
    return StageReport(len(texts), positions, tuple(rungs), len(prompts) - len(texts)), written


def _fitting(origin: StageReference, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The prompts that leave room for a continuation: a small model may be made for short questions."""
    fitting = [index for index, ids in enumerate(prompts) if len(ids) + _MIN_NEW_TOKENS <= origin.context]
    if not fitting:
        raise UsageError(
            f"The shortest verification prompt has {min(map(len, prompts)):,} tokens, "
            f"the model's context {origin.context:,}.",
            "Give shorter questions with --prompts.",
        )
    return fitting


def _reference(
    origin: StageReference, prompts: Sequence[Sequence[int]], progress: Progress
) -> tuple[list[ComparedText], list[Predictions], list[str]]:
    """The texts, the reference's predictions for them, and its continuations."""
    model = origin.open()
    limit = min(model.new_tokens, origin.context - max(map(len, prompts)))
    steps = _steps(progress, "reference")
    continuations = model.continue_greedily(prompts, origin.stops, limit, part_of(steps, 0, 2))
    texts = make_texts(prompts, continuations)
    computed = model.logits(texts, part_of(steps, 1, 2))
    found = {index: predict(texts[index], rows) for index, rows in computed}
    written = origin.tokenizer.batch_decode(continuations, skip_special_tokens=True)
    return texts, [found[index] for index in range(len(texts))], [text.strip() for text in written]


def _exact_rungs(
    bundle: Bundle,
    stage: str,
    origin: StageReference,
    asked: Sequence[Asked],
    texts: Sequence[str],
    limits: Limits,
    progress: Progress,
) -> list[Rung]:
    tokenizer = Tokenizer(bundle.path / stage)
    described = bundle.stages[stage]
    # The answer model is also asked without guidance.
    alone = [(question, None) for question, guidance in asked if guidance is not None]
    ends = {"bundle.json": described.stop_ids, "tokenizer files": tokenizer.stop_ids(), **origin.stored.end_tokens()}
    comparisons: dict[str, Callable[[], exact.ExactComparison]] = {
        "tokenizer": lambda: exact.compare_ids(origin.tokenizer, tokenizer, texts),
        "gguf_tokenizer": lambda: _compare_in_llama_cpp(bundle, stage, origin, texts),
        "template": lambda: exact.compare_prompts(
            origin.tokenizer, origin.prompt, tokenizer, described.prompt, [*asked, *alone]
        ),
        "stops": lambda: exact.compare_stops(origin.stops, ends),
    }
    if bundle.format != "gguf":
        del comparisons["gguf_tokenizer"]
    checks: dict[str, Callable[[], Evidence]] = {
        "tokenizer": lambda: evidence.of_tokenizer(Path(origin.tokenizer.name_or_path), tokenizer.directory),
        "template": lambda: evidence.of_template(
            origin.tokenizer, origin.prompt, tokenizer.directory, described.prompt
        ),
    }
    rungs = []
    for name, compare in comparisons.items():
        counts, detail = compare()
        rung = Rung(name, counts, limits[name], detail)
        rungs.append(replace(rung, evidence=checks[name]()) if rung.exceeded and name in checks else rung)
        _steps(progress, name)(1, 1)
    return rungs


def _compare_in_llama_cpp(
    bundle: Bundle, stage: str, origin: StageReference, texts: Sequence[str]
) -> exact.ExactComparison:
    """The token ids of other programs, which use the tokenizer inside a GGUF file."""
    from edgereason.export.fidelity.readback.gguf_file import own_tokenizer

    with own_tokenizer(bundle.model(stage) / "model.gguf") as tokenizer:
        return exact.compare_texts(origin.tokenizer, tokenizer.encode, texts)


def _weight_rungs(
    origin: StageReference,
    texts: Sequence[ComparedText],
    reference: list[Predictions],
    limits: Limits,
    progress: Progress,
) -> Iterator[tuple[Rung, list[Predictions]]]:
    """The rungs between the reference and the engine: one model, filled with the weights of each."""
    if not origin.rungs:
        return
    model = origin.empty()
    before = reference
    for name, weight in origin.rungs.items():
        steps = _steps(progress, name)
        changes = model.fill(weight, part_of(steps, 0, 2))
        computed = model.logits(texts, part_of(steps, 1, 2))
        distance, before = measure_distance(texts, reference, before, computed)
        measures = distance.to_json()
        detail = ""
        if name != next(iter(origin.rungs)):  # nothing precedes the first rung's weights
            worst, detail = _largest(changes)
            measures["weight"] = worst
        rung = Rung(name, measures, limits[name], detail)
        if name == "merged" and rung.exceeded:
            rung = replace(rung, evidence=origin.why_merged())
        yield rung, before


def _largest(changes: Mapping[str, float]) -> tuple[float, str]:
    """The largest change of a weight, and which one it is, where others changed far less."""
    name, worst = max(changes.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])
    if not np.isfinite(worst):
        return np.inf, f"{name} has NaN or infinite values"
    # Vectors are not quantized: their zeros say nothing about the others.
    usual = float(np.median([change for change in changes.values() if change > 0] or [0.0]))
    return worst, f"{name} is off by {worst:.1%}, most by {usual:.1%}" if worst > max(3 * usual, 0.01) else ""


def _engine_logits(
    model: LanguageModel, texts: Sequence[ComparedText], progress: StepProgress
) -> Iterator[tuple[int, Logits]]:
    """Logits `[len(ids) - 1, vocab]` as an engine computes them in use: prefill of the prompt, then token by token."""
    for index, text in enumerate(texts):
        session = model.session(len(text.ids))
        try:
            rows = [session.advance(text.ids[: text.prompt], every=True)]
            for done, token in enumerate(text.ids[text.prompt : -1]):
                part_of(progress, index, len(texts))(done, len(text.ids) - text.prompt)
                rows.append(session.advance([token]))
        finally:
            session.close()
        yield index, np.concatenate(rows)
        part_of(progress, index, len(texts))(1, 1)


def _steps(progress: Progress, rung: str) -> StepProgress:
    title = TITLES.get(rung, rung)
    return lambda done, total: progress(f"verifying: {title}", done, total)
