"""The distance between the next-token distributions of two models, over the same texts.

All logarithms are natural: divergences are in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

KEPT_TOKENS = 2048
"""Probabilities kept of each distribution, the largest ones, so that a reference over 150,000 tokens stays small. All
others count as one event, which can only lower a divergence (data processing inequality); for vocabularies up to this
size it is exact."""

_ROWS = 64  # positions computed at once: float64 log probabilities of 64 x 150,000 tokens are 77 MB


@dataclass(frozen=True)
class ComparedText:
    """The token ids of a prompt and the reference's continuation, on which models are compared.

    Attributes:
        ids: Prompt and continuation.
        prompt: The length of the prompt.
        start: The first token whose prediction counts, after the prefix that all prompts share.
    """

    ids: tuple[int, ...]
    prompt: int
    start: int

    @property
    def rows(self) -> slice:
        """The rows of the logits `[len(ids), vocab]` that predict `targets`."""
        return slice(self.start - 1, len(self.ids) - 1)

    @property
    def targets(self) -> tuple[int, ...]:
        return self.ids[self.start :]


def make_texts(prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[ComparedText]:
    """Texts of prompts and their continuations; predictions count after the prefix that all prompts share."""
    shared = 0
    if len(prompts) > 1:
        shared = next((i for i, ids in enumerate(zip(*prompts, strict=False)) if len(set(ids)) > 1), 0)
    return [
        ComparedText((*prompt, *more), len(prompt), max(1, min(shared, len(prompt) - 1)))
        for prompt, more in zip(prompts, continuations, strict=True)
    ]


@dataclass(frozen=True)
class Predictions:
    """A model's predictions at the T counted positions of a text: the K most probable tokens of each with their log
    probabilities, and the probability of all others together."""

    tokens: npt.NDArray[np.int64]  # [T, K]
    log_probabilities: Float64  # [T, K]
    rest: Float64  # [T]
    best: npt.NDArray[np.int64]  # [T]
    target: Float64  # [T], log probability of the token that comes next


@dataclass(frozen=True)
class Distance:
    """The distance of a model from the reference, over all texts.

    Attributes:
        kl: Mean Kullback-Leibler divergence of the reference's distributions from the model's, nats.
        kl_p99: Its 99th percentile over positions.
        step_kl: Mean divergence from the previous rung, nats: what this step alone adds.
        top1: Share of positions with the same most probable token.
        perplexity: The ratio of the model's perplexity to the reference's.
        greedy: Share of texts that the model, decoding greedily, would have continued token for token like the
            reference. Where its best token is the reference's at every position of the continuation, it writes the
            same, by induction; where not, it departs at the first such position.
    """

    kl: float
    kl_p99: float
    step_kl: float
    top1: float
    perplexity: float
    greedy: float

    def to_json(self) -> dict[str, float]:
        return dict(vars(self))


def predict(text: ComparedText, logits: Logits, kept: int = KEPT_TOKENS) -> Predictions:
    """The predictions of a model's logits `[len(text.ids), vocab]`."""
    rows = logits[text.rows]
    parts = [_predict(rows[at : at + _ROWS], text.targets[at : at + _ROWS], kept) for at in range(0, len(rows), _ROWS)]
    return Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def divergence(reference: Predictions, text: ComparedText, logits: Logits) -> Float64:
    """Kullback-Leibler divergence of the reference from a model's logits `[len(text.ids), vocab]`: `[T]`, nats.

    Infinite where logits are not finite.
    """
    rows = logits[text.rows]
    return np.concatenate(
        [_divergence(reference, slice(at, at + _ROWS), rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
    )


def _predict(logits: Logits, targets: Sequence[int], kept: int) -> Predictions:
    log_probabilities = _log_softmax(logits)
    kept = min(kept, logits.shape[1])
    tokens = np.argpartition(-log_probabilities, kept - 1, axis=1)[:, :kept]
    top = np.take_along_axis(log_probabilities, tokens, axis=1)
    rest = np.maximum(1 - np.exp(top).sum(axis=1), 0) if kept < logits.shape[1] else np.zeros(len(top))
    target = np.take_along_axis(log_probabilities, np.array(targets)[:, None], axis=1)[:, 0]
    return Predictions(tokens, top, rest, log_probabilities.argmax(axis=1), target)


def _divergence(reference: Predictions, rows: slice, logits: Logits) -> Float64:
    log_q = np.take_along_axis(_log_softmax(logits), reference.tokens[rows], axis=1)
    log_p, rest = reference.log_probabilities[rows], reference.rest[rows]
    p = np.exp(log_p)
    with np.errstate(invalid="ignore", divide="ignore"):
        # -inf - -inf where both exclude a token: no contribution.
        kl = np.where(p > 0, p * (log_p - log_q), 0).sum(axis=1)
        rest_q = np.maximum(1 - np.exp(log_q).sum(axis=1), np.finfo(np.float64).tiny)
        kl += np.where(rest > 0, rest * np.log(rest / rest_q), 0)
    # Rounding makes divergences of equal distributions negative by 1e-16.
    result: Float64 = np.where(np.isfinite(logits).all(axis=1), np.maximum(kl, 0), np.inf)
    return result


def _log_softmax(logits: Logits) -> Float64:
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        x -= x.max(axis=1, keepdims=True)
        shifted: Float64 = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return shifted


def measure_distance(
    texts: Sequence[ComparedText],
    reference: Sequence[Predictions],
    before: Sequence[Predictions],
    logits: Iterable[tuple[int, Logits]],
) -> tuple[Distance, list[Predictions]]:
    """Compare a model with the reference, and with the previous rung.

    Args:
        texts: The texts.
        reference: The reference's predictions for each text.
        before: Those of the previous rung.
        logits: A text's index and the model's logits `[len(ids), vocab]`, each text once, in any order.

    Returns:
        The distance, and the model's predictions for each text.
    """
    found: dict[int, Predictions] = {}
    kl, step = {}, {}
    for index, rows in logits:
        text = texts[index]
        found[index] = predict(text, rows)
        kl[index] = divergence(reference[index], text, rows)
        step[index] = divergence(before[index], text, rows)
    order = range(len(texts))
    predictions = [found[index] for index in order]
    every_kl = np.concatenate([kl[index] for index in order])
    same = [predictions[index].best == reference[index].best for index in order]
    ratio = np.concatenate([reference[index].target - predictions[index].target for index in order]).mean()
    distance = Distance(
        kl=float(every_kl.mean()),
        # Of the values themselves, not between two of them: one of both may be infinite.
        kl_p99=float(np.quantile(every_kl, 0.99, method="higher")),
        step_kl=float(np.concatenate([step[index] for index in order]).mean()),
        top1=float(np.concatenate(same).mean()),
        perplexity=math.exp(min(float(ratio), 700.0)) if np.isfinite(ratio) else math.inf,
        greedy=float(np.mean([each[text.prompt - text.start :].all() for each, text in zip(same, texts, strict=True)])),
    )
    return distance, predictions
