"""The limits of each rung: how much it may lose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgereason.errors import UsageError

EXACT = ("tokenizer", "gguf_tokenizer", "template", "stops")
"""Rungs on which everything has to be equal."""
NUMERIC = ("merged", "stored", "quantized", "engine")
"""Rungs on which next-token distributions are compared."""
RUNGS = (*EXACT, *NUMERIC)

AT_LEAST = ("top1", "greedy")
"""Measures with a minimum; all others have a maximum."""
MEASURES = ("kl", "kl_p99", "step_kl", "top1", "perplexity", "greedy", "weight")

Limits = Mapping[str, Mapping[str, float]]
"""By rung and measure."""

# Measured on the example and on random models: docs/fidelity.md shows what is usual, these are several times as much.
_ROUNDING = {"kl": 1e-6, "kl_p99": 1e-5, "top1": 0.999, "perplexity": 1.001, "greedy": 0.98}
_HALF = {"kl": 1e-4, "kl_p99": 1e-3, "top1": 0.995, "perplexity": 1.005, "greedy": 0.95}
# A model of many layers hardly shows that one of them is broken: its weights do.
_WEIGHT = {4: 0.35, 5: 0.2, 6: 0.1, 8: 0.05, 16: 0.01}
_QUANTIZED = {
    4: {"kl": 0.1, "kl_p99": 1.5, "top1": 0.9, "perplexity": 1.15},
    5: {"kl": 0.04, "kl_p99": 0.6, "top1": 0.93, "perplexity": 1.06},
    6: {"kl": 0.015, "kl_p99": 0.2, "top1": 0.96, "perplexity": 1.03},
    8: {"kl": 0.003, "kl_p99": 0.05, "top1": 0.98, "perplexity": 1.02, "greedy": 0.8},
    16: _HALF,
}


def default_limits(bits: int) -> dict[str, dict[str, float]]:
    """The default limits for 4 to 16 bits per weight; between measured bits, those of the fewer."""
    known = max(known for known in _QUANTIZED if known <= bits)
    quantized = _QUANTIZED[known]
    return {
        **{rung: {"different": 0.0} for rung in EXACT},
        "merged": dict(_ROUNDING),
        "stored": {**_HALF, "weight": _WEIGHT[16]},
        "quantized": {**quantized, "weight": _WEIGHT[known]},
        "engine": {**quantized, "step_kl": _QUANTIZED[8]["kl"] if bits < 16 else _HALF["kl"]},  # 8-bit activations
    }


def parse_thresholds(texts: Iterable[str]) -> dict[str, dict[str, float]]:
    """Parse limits such as `quantized.kl=0.05`.

    Raises:
        UsageError: a text is not of this form, or names no rung or measure.
    """
    limits: dict[str, dict[str, float]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        rung, _, measure = name.strip().partition(".")
        known = ("different",) if rung in EXACT else MEASURES
        if rung not in RUNGS or measure not in known or not equals:
            raise UsageError(
                f"threshold {text!r} is not of the form RUNG.MEASURE=VALUE.",
                f"Rungs: {', '.join(NUMERIC)}; measures: {', '.join(MEASURES)}. Example: quantized.kl=0.05",
            )
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if math.isnan(limit) or limit < 0:
            raise UsageError(
                f"threshold {text!r}: {value!r} is not a number of 0 or more.", "Example: quantized.kl=0.05"
            )
        limits.setdefault(rung, {})[measure] = limit
    return limits


def with_thresholds(limits: Limits, changes: Limits) -> dict[str, dict[str, float]]:
    """`limits`, those of `changes` in their place."""
    return {rung: {**values, **changes.get(rung, {})} for rung, values in limits.items()}


def in_whole_counts(limits: Limits, positions: int, prompts: int) -> dict[str, dict[str, float]]:
    """Limits on shares, lowered to whole numbers of positions and prompts.

    Of 160 positions one is 0.6%: without this, a limit of 99.5% would not allow a single difference, and two equally
    probable tokens would fail a bundle.
    """
    counts = {"top1": positions, "greedy": prompts}
    return {
        rung: {name: _whole(limit, counts[name]) if name in counts else limit for name, limit in values.items()}
        for rung, values in limits.items()
    }


def _whole(share: float, count: int) -> float:
    misses = math.ceil(round(count * (1 - share), 6))  # rounded before: 1 - 0.9 is a little more than a tenth
    return math.floor((1 - misses / count) * 1e5) / 1e5  # down, since reports round what was measured


def exceeded(measures: Mapping[str, float], limits: Mapping[str, float]) -> tuple[str, ...]:
    """The measures beyond their limits; NaN is beyond every limit."""
    return tuple(
        name
        for name, limit in limits.items()
        if name in measures and not (measures[name] >= limit if name in AT_LEAST else measures[name] <= limit)
    )
