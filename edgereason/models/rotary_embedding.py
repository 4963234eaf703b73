"""Rotary position embeddings: RoPE frequencies and their scaling (RoFormer, arXiv 2104.09864).

The kinds of scaling are those of transformers' `rope_parameters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class Rope:
    """The rotary embedding of a model, or of one type of its layers.

    Attributes:
        kind: One of `KINDS`.
        inv_freq: RoPE frequencies: radians per position of each pair of a head's first R elements, R / 2 of them. The
            other elements are not rotated (partial rotary embeddings).
        scale: Factor of cosine and sine (the attention factor of yarn and longrope).
        trained_length: The length up to which `inv_freq` holds whatever the sequence (dynamic, longrope).
        long_inv_freq: longrope's frequencies for sequences beyond it.
        base, factor: Of dynamic.
    """

    kind: str
    inv_freq: Float32
    scale: float = 1.0
    trained_length: int = 0
    long_inv_freq: Float32 | None = None
    base: float = 10000.0
    factor: float = 1.0

    @classmethod
    def from_json(cls, config: dict[str, Any], head_dim: int, layer_type: str | None = None) -> Rope:
        """Read a `config.json`: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).

        Args:
            config: The whole configuration.
            head_dim: Elements of a head.
            layer_type: Which of several embeddings, where `rope_parameters` has one for each type of layer.

        Raises:
            BundleError: a kind of scaling that is not known, or parameters that are missing or wrong.
        """
        values = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if isinstance(values, dict) and layer_type in values:
            values = values[layer_type]
        if not isinstance(values, dict):
            raise BundleError("config.json: its rope parameters are no object.")
        kind = values.get("rope_type", values.get("type", "default"))
        if kind == "su":  # longrope's name in the first Phi-3 models
            kind = "longrope"
        if kind not in KINDS:
            raise BundleError(f"config.json: rope_type {kind!r} is not known.", f"Known are {', '.join(KINDS)}.")
        try:
            rope = _build(cls, kind, values, config, head_dim)
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise BundleError(f"config.json: its rope parameters of type {kind!r} are wrong: {error}.") from error
        if not np.isfinite(rope.inv_freq).all() or not math.isfinite(rope.scale):
            raise BundleError(f"config.json: its rope parameters of type {kind!r} give infinite frequencies.")
        return rope

    def frequencies(self, length: int) -> Float32:
        """RoPE frequencies of a sequence of up to `length` tokens, in radians per position: float32 `[R / 2]`."""
        if length <= self.trained_length:
            return self.inv_freq
        if self.long_inv_freq is not None:
            return self.long_inv_freq
        if self.kind == "dynamic":  # NTK-aware: the base grows with the length (YaRN, arXiv 2309.00071, section 3.3)
            dim = 2 * len(self.inv_freq)
            growth = self.factor * length / self.trained_length - (self.factor - 1)
            return _frequencies(self.base * growth ** (dim / (dim - 2)), dim)
        return self.inv_freq

    @property
    def depends_on_length(self) -> bool:
        """Whether `frequencies` are others for long sequences."""
        return self.kind in ("dynamic", "longrope")

    def cos_sin(self, positions: Int64, lengths: Int64 | None) -> tuple[Float32, Float32]:
        """Cosine and sine of position times frequency, for each row: float32 `[T, R / 2]` twice.

        Args:
            positions: int64 `[T]`.
            lengths: Maximum tokens of each row's sequence, int64 `[T]`: cached keys have been rotated already, so the
                frequencies are chosen when a sequence begins, not when it has become long. None where nothing depends
                on it.
        """
        if not self.depends_on_length or lengths is None or len(lengths) == 0:
            frequencies = self.inv_freq
        else:
            kinds, row_kinds = np.unique(lengths, return_inverse=True)
            frequencies = np.stack([self.frequencies(int(length)) for length in kinds])[row_kinds]
        radians: Float32 = positions.astype(np.float32)[:, None] * frequencies
        if self.scale == 1:
            return np.cos(radians), np.sin(radians)
        scale = np.float32(self.scale)
        return np.cos(radians) * scale, np.sin(radians) * scale


def context_length(config: dict[str, Any], trained_length: int) -> int:
    """Maximum tokens of a sequence: more than `max_position_embeddings` where its embedding is scaled on top of it.

    Raises:
        BundleError: the factor is no number.
    """
    values = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = values.get("rope_type", values.get("type"))
    if kind not in ("dynamic", "yarn"):
        return trained_length
    try:
        original = trained_length if kind == "dynamic" else values.get("original_max_position_embeddings", 0)
        return max(trained_length, int(original * float(values.get("factor") or 1.0)))
    except (TypeError, ValueError, OverflowError) as error:
        raise BundleError(f"config.json: its rope parameters of type {kind!r} are wrong: {error}.") from error


def _build(cls: type[Rope], kind: str, values: dict[str, Any], config: dict[str, Any], head_dim: int) -> Rope:
    theta = _positive({"rope_theta": config.get("rope_theta", 10000.0), **values}, "rope_theta")
    partial = float(_first(values.get("partial_rotary_factor"), config.get("partial_rotary_factor"), 1.0))
    dim = int(head_dim * partial)
    if dim < 2 or dim % 2 or dim > head_dim:
        raise ValueError(f"{dim} of {head_dim} elements cannot be rotated")
    frequencies = _frequencies(theta, dim)
    longest = int(config.get("max_position_embeddings", 2048))
    if kind == "linear":  # positions interpolated (arXiv 2306.15595)
        return cls(kind, frequencies / np.float32(_positive(values, "factor")))
    if kind == "dynamic":
        if dim < 4:
            raise ValueError(f"{dim} elements are too few")
        return cls(kind, frequencies, 1.0, longest, base=theta, factor=_positive(values, "factor"))
    # Phi-3 has it outside, and there it counts.
    original = int(
        _first(config.get("original_max_position_embeddings"), values.get("original_max_position_embeddings"), longest)
    )
    if kind == "llama3":
        return cls(kind, _llama3(frequencies, values, original))
    if kind == "yarn":
        factor = float(_first(values.get("factor"), longest / original))
        return cls(kind, _yarn(frequencies, theta, dim, values, factor, original), _yarn_scale(values, factor))
    if kind == "longrope":  # LongRoPE, arXiv 2402.13753
        short, long = (_per_pair(values[name], dim) for name in ("short_factor", "long_factor"))
        factor = float(_first(values.get("factor"), longest / original))
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        scale = float(_first(values.get("attention_factor"), scale))
        return cls(kind, frequencies / short, scale, original, frequencies / long)
    return cls(kind, frequencies)


def _frequencies(base: float, dim: int) -> Float32:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies: Float32 = (1 / np.float32(base) ** exponents).astype(np.float32)
    return frequencies


def _llama3(frequencies: Float32, values: dict[str, Any], original: int) -> Float32:
    """Slow frequencies divided by `factor`, fast ones kept, a smooth passage between (Llama 3.1, arXiv 2407.21783)."""
    factor, low, high = (_positive(values, name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if low >= high:
        raise BundleError(f"config.json: low_freq_factor {low} has to be below high_freq_factor {high}.")
    rotations = original * frequencies / (2 * math.pi)
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    scaled: Float32 = (frequencies * (kept + (1 - kept) / factor)).astype(np.float32)
    return scaled


def _yarn(frequencies: Float32, base: float, dim: int, values: dict[str, Any], factor: float, original: int) -> Float32:
    """High frequencies kept, low ones interpolated, a ramp between (YaRN, arXiv 2309.00071)."""

    def pair_of(rotations: float) -> float:  # the pair that rotates so often within the trained length
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    first, last = (
        pair_of(float(values.get(name) or rotations)) for name, rotations in (("beta_fast", 32), ("beta_slow", 1))
    )
    if values.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - first) / max(last - first, 0.001), 0, 1)
    scaled: Float32 = (frequencies * (1 - ramp) + frequencies / factor * ramp).astype(np.float32)
    return scaled


def _yarn_scale(values: dict[str, Any], factor: float) -> float:
    def growth(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0

    if values.get("attention_factor") is not None:
        return float(values["attention_factor"])
    if values.get("mscale") and values.get("mscale_all_dim"):
        return growth(float(values["mscale"])) / growth(float(values["mscale_all_dim"]))
    return growth(1.0)


def _per_pair(factors: Any, dim: int) -> Float32:
    array = np.asarray(factors, np.float32)
    if array.shape != (dim // 2,) or not (array > 0).all():
        raise ValueError(f"its factors have to be {dim // 2} positive numbers")
    return array


def _positive(values: dict[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise BundleError(f"config.json: {name} of the rope parameters is {value!r}, it has to be a positive number.")
    return float(value)


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next(value for value in values if value is not None)
