"""Where a bundle's domain ends: the confidence below which a question is outside of what its guidance model knows.

The threshold is set by questions that the model knows, so that a chosen share of them falls below it, as detectors of
out-of-distribution inputs are calibrated by their rate of false alarms (Hendrycks and Gimpel, arXiv 1610.02136). How
many other questions are then detected is measured, not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgereason.errors import UsageError
from edgereason.pipeline.reasoner import Reasoner

LEAST_KNOWN = 100
"""Questions that a threshold needs: a rate of 1 in 100 cannot be seen in fewer."""

_DIGITS = 10**6


@dataclass(frozen=True)
class Detection:
    """What became of the questions that a model does not know.

    Attributes:
        total: How many there were.
        detected: The share of them whose confidence is below the threshold.
        auroc: The probability that one of them has a lower confidence than a known question; 0.5 tells nothing.
    """

    total: int
    detected: float
    auroc: float


@dataclass(frozen=True)
class Domain:
    """A threshold, and what it does.

    Attributes:
        min_confidence: The threshold: questions with less are outside.
        known: How many known questions it was set by.
        false_alarms: The share of known questions that were called outside by a threshold that the other half of them
            has set, at the rate that was asked for: what to expect of new ones.
        others: Detection by the name of each set of other questions.
    """

    min_confidence: float
    known: int
    false_alarms: float
    others: dict[str, Detection]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def confidences(
    reasoner: Reasoner,
    questions: Sequence[str],
    batch_size: int = 16,
    report: Callable[[int, int], object] | None = None,
) -> list[float]:
    """The confidence of each question's guidance, greedy; of questions longer than the context there is none.

    Args:
        reasoner: Whose guidance model is asked.
        questions: Asked in batches.
        batch_size: Maximum sequences per forward pass.
        report: Called after each question with how many are done, and how many there are.
    """
    found = []
    for outcome in reasoner.batch(questions, batch_size=batch_size, answer=False, temperature=0.0):
        if outcome.result is not None and outcome.result.confidence is not None:
            found.append(outcome.result.confidence)
        if report is not None:
            report(outcome.number + 1, len(questions))
    return found


def find_domain(known: Sequence[float], others: Mapping[str, Sequence[float]], false_alarms: float = 0.02) -> Domain:
    """Set a threshold by the confidences of known questions, and tell what it detects among others.

    Args:
        known: Confidences of questions that the model knows, none of which it was trained on.
        others: By name, confidences of questions that it does not know.
        false_alarms: The share of known questions that may fall below the threshold.

    Raises:
        UsageError: there are too few known questions, none of a set of others, or the rate is no share.
    """
    if not 0 <= false_alarms < 1:
        raise UsageError(f"false-alarms is {false_alarms}.", "Give a share below 1, such as 0.02.")
    if len(known) < LEAST_KNOWN:
        raise UsageError(
            f"{len(known)} known questions are too few to set a threshold by.", f"Give {LEAST_KNOWN} or more."
        )
    for name, found in others.items():
        if not found:
            raise UsageError(f"{name} has no question that fits the model's context.", "Give other questions.")
    threshold = _threshold(known, false_alarms)
    halves = known[::2], known[1::2]
    alarms = sum(_below(half, _threshold(other, false_alarms)) for half, other in (halves, halves[::-1]))
    detections = {
        name: Detection(len(found), _below(found, threshold) / len(found), _auroc(known, found))
        for name, found in others.items()
    }
    return Domain(threshold, len(known), alarms / len(known), detections)


def _threshold(known: Sequence[float], false_alarms: float) -> float:
    """The largest number of six digits that has no more than the given share of `known` below it."""
    lowest = sorted(known)[math.floor(false_alarms * len(known))]
    return math.floor(lowest * _DIGITS) / _DIGITS


def _below(found: Sequence[float], threshold: float) -> int:
    return sum(confidence < threshold for confidence in found)


def _auroc(known: Sequence[float], others: Sequence[float]) -> float:
    """The share of pairs whose known question has the higher confidence; ties count half (Mann and Whitney, 1947)."""
    ordered, values = np.sort(np.asarray(others)), np.asarray(known)
    lower = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return float(lower.sum() / (2 * len(known) * len(others)))
