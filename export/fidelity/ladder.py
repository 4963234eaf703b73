"""The ladder: one stage of a bundle measured rung by rung, from base and unmerged adapter to the running engine.

All rungs read the same token ids, the reference's, so that each shows its own loss alone. Texts are prompts and what
the reference wrote after them, greedily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from edgereason.bundle import Bundle
from edgereason.errors import UsageError
from edgereason.export.fidelity import exact_rungs as exact
from edgereason.export.fidelity import reference_model as witness
from edgereason.export.fidelity.distance import Logits, Predictions, Text, make_texts, measure, predict
from edgereason.export.fidelity.limits import Limits, in_whole_counts
from edgereason.export.fidelity.references import Origin
from edgereason.export.fidelity.report import TITLES, Rung, StageReport
from edgereason.language_model import LanguageModel, load_model
from edgereason.text.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done, and how many there are."""

_LEAST_NEW = 8

Asked = tuple[str, str | None]
"""A question, and the guidance that goes with it where there is one."""


def climb(
    bundle: Bundle, stage: str, origin: Origin, asked: Sequence[Asked], limits: Limits, progress: Progress
) -> tuple[StageReport, list[str]]:
    """Measure one stage. Prompts that leave no room in the model's context are left out, and counted.

    Returns:
        Its report, and the reference's texts for each of `asked`; empty where the prompt was left out.

    Raises:
        UsageError: no prompt fits into the model's context.
        BundleError, EngineError: the bundle or its engine cannot be used.
    """
    rendered = [exact.render(origin.tokenizer, origin.prompt, *each) for each in asked]
    prompts: list[list[int]] = origin.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    fitting = _fitting(origin, prompts)
    texts, reference, continued = _reference(origin, [prompts[index] for index in fitting], progress)
    written = [dict(zip(fitting, continued, strict=True)).get(index, "") for index in range(len(prompts))]
    positions = sum(len(text.targets) for text in texts)
    limits = in_whole_counts(limits, positions, len(texts))
    rungs = _exact_rungs(bundle, stage, origin, asked, [*rendered, *written], limits)
    before = reference
    for rung, predictions in _weight_rungs(origin, texts, reference, limits, progress):
        rungs.append(rung)
        before = predictions
    threads = 1 if origin.parameters < witness.SMALL else None
    with load_model(bundle.path / stage, threads=threads) as model:
        distance, _ = measure(texts, reference, before, _engine_logits(model, texts, _steps(progress, "engine")))
    rungs.append(Rung("engine", distance.to_json(), limits["engine"]))
    return StageReport(len(texts), positions, tuple(rungs), len(prompts) - len(texts)), written


def _fitting(origin: Origin, prompts: Sequence[Sequence[int]]) -> list[int]:
    """Which prompts leave room for a text in the model's context: a small model may be meant for short questions."""
    fitting = [index for index, ids in enumerate(prompts) if len(ids) + _LEAST_NEW <= origin.context]
    if not fitting:
        raise UsageError(
            f"The shortest prompt to verify with has {min(map(len, prompts)):,} tokens, "
            f"the model's context holds {origin.context:,}.",
            "Give shorter questions with --prompts.",
        )
    return fitting


def _reference(
    origin: Origin, prompts: Sequence[Sequence[int]], progress: Progress
) -> tuple[list[Text], list[Predictions], list[str]]:
    """The texts that everything is measured on, what the reference predicts in them, and what it wrote."""
    model = origin.open()
    limit = min(model.new_tokens, origin.context - max(map(len, prompts)))
    steps = _steps(progress, "reference")
    # Writing and reading are counted as one step of work.
    continuations = model.continue_greedily(prompts, origin.stops, limit, lambda done, total: steps(done, 2 * total))
    texts = make_texts(prompts, continuations)
    computed = model.logits(texts, lambda done, total: steps(total + done, 2 * total))
    found = {index: predict(texts[index], rows) for index, rows in computed}
    written = origin.tokenizer.batch_decode(continuations, skip_special_tokens=True)
    return texts, [found[index] for index in range(len(texts))], [text.strip() for text in written]


def _exact_rungs(
    bundle: Bundle, stage: str, origin: Origin, asked: Sequence[Asked], texts: Sequence[str], limits: Limits
) -> list[Rung]:
    tokenizer = Tokenizer(bundle.path / stage)
    described = bundle.stages[stage]
    # The answer model is asked without a guidance as well.
    alone = [(question, None) for question, guidance in asked if guidance is not None]
    ends = {"bundle.json": described.stop_ids, "tokenizer files": tokenizer.stop_ids(), **origin.stored.end_tokens()}
    compared = {
        "tokenizer": exact.compare_ids(origin.tokenizer, tokenizer, texts),
        **_in_llama_cpp(bundle, stage, origin, texts),
        "template": exact.compare_prompts(
            origin.tokenizer, origin.prompt, tokenizer, described.prompt, [*asked, *alone]
        ),
        "stops": exact.compare_stops(origin.stops, ends),
    }
    return [Rung(name, counts, limits[name], detail) for name, (counts, detail) in compared.items()]


def _in_llama_cpp(bundle: Bundle, stage: str, origin: Origin, texts: Sequence[str]) -> dict[str, exact.Comparison]:
    """What other programs make of the texts with the tokenizer inside a GGUF file."""
    if bundle.format != "gguf":
        return {}
    from edgereason.export.fidelity.readback.gguf_file import own_tokenizer

    with own_tokenizer(bundle.model(stage) / "model.gguf") as tokenizer:
        return {"gguf_tokenizer": exact.compare_texts(origin.tokenizer, tokenizer.encode, texts)}


def _weight_rungs(
    origin: Origin, texts: Sequence[Text], reference: list[Predictions], limits: Limits, progress: Progress
) -> Iterator[tuple[Rung, list[Predictions]]]:
    """The rungs between the reference and the engine: one model, filled with the weights of each."""
    if not origin.rungs:
        return
    model = origin.empty()
    before = reference
    for name, weight in origin.rungs.items():
        changes = model.fill(weight)
        computed = model.logits(texts, _steps(progress, name))
        distance, before = measure(texts, reference, before, computed)
        measures = distance.to_json()
        detail = ""
        if name != next(iter(origin.rungs)):  # the first rung's weights follow no others
            worst, detail = _largest(changes)
            measures["weight"] = worst
        yield Rung(name, measures, limits[name], detail), before


def _largest(changes: Mapping[str, float]) -> tuple[float, str]:
    """The largest change of a weight, and in words which one it is, where others changed far less."""
    name, worst = max(changes.items(), key=lambda item: np.inf if np.isnan(item[1]) else item[1])
    if not np.isfinite(worst):
        return np.inf, f"{name} has values that are not finite"
    # Vectors are not rounded: their zeros say nothing of the others.
    usual = float(np.median([change for change in changes.values() if change > 0] or [0.0]))
    return worst, f"{name} is off by {worst:.1%}, most by {usual:.1%}" if worst > max(3 * usual, 0.01) else ""


def _engine_logits(
    model: LanguageModel, texts: Sequence[Text], report: Callable[[int, int], None]
) -> Iterator[tuple[int, Logits]]:
    """Logits `[len(ids) - 1, vocab]` as an engine computes them in use: the prompt at once, then token by token."""
    for index, text in enumerate(texts):
        session = model.session(len(text.ids))
        try:
            rows = [session.advance(text.ids[: text.prompt], every=True)]
            rows += [session.advance([token]) for token in text.ids[text.prompt : -1]]
        finally:
            session.close()
        yield index, np.concatenate(rows)
        report(index + 1, len(texts))


def _steps(progress: Progress, rung: str) -> Callable[[int, int], None]:
    title = TITLES.get(rung, rung)
    return lambda done, total: progress(f"verifying: {title}", done, total)
