"""Rotary position embeddings: the angles by which each position turns (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError

Float32 = npt.NDArray[np.float32]


def inverse_frequencies(config: dict[str, Any], head_dim: int) -> Float32:
    """Radians per position of each pair of a head's elements: float32 `[head_dim / 2]`.

    Args:
        config: A `config.json`, with `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).
        head_dim: Elements of a head; even.

    Raises:
        BundleError: a kind of scaling that is not known, or parameters that are missing or out of range.
    """
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise BundleError("config.json: its rope parameters are no object.")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    theta = _positive({"rope_theta": config.get("rope_theta", 10000.0), **scaling}, "rope_theta")
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: Float32 = 1 / np.float32(theta) ** exponents
    if kind == "default":
        return frequencies
    if kind == "linear":  # positions interpolated (arXiv 2306.15595)
        interpolated: Float32 = frequencies / np.float32(_positive(scaling, "factor"))
        return interpolated
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    raise BundleError(f"config.json: rope_type {kind!r} is not known.", "Known are default, linear, llama3.")


def _llama3(frequencies: Float32, scaling: dict[str, Any]) -> Float32:
    """Slow frequencies divided by `factor`, fast ones kept, a smooth passage between (Llama 3.1, arXiv 2407.21783)."""
    factor, low, high = (_positive(scaling, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise BundleError(f"config.json: low_freq_factor {low} has to be below high_freq_factor {high}.")
    turns = _positive(scaling, "original_max_position_embeddings") * frequencies / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    scaled: Float32 = (frequencies * (kept + (1 - kept) / factor)).astype(np.float32)
    return scaled


def _positive(values: dict[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BundleError(f"config.json: {name} of the rope parameters is {value!r}, it has to be a positive number.")
    return float(value)


def angles(positions: npt.NDArray[np.int64], frequencies: Float32) -> tuple[Float32, Float32]:
    """Cosine and sine of each position's angles: float32 `[T, head_dim / 2]` twice."""
    turned: Float32 = positions.astype(np.float32)[:, None] * frequencies
    return np.cos(turned), np.sin(turned)
