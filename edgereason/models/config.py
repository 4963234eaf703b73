"""What a model's `config.json` says, with errors that name the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgereason.errors import BundleError
from edgereason.models.rotary_embedding import Rope, context_length

MAX_HEAD_DIM = 512  # what the attention kernels have room for
_MAX_INTEGER = 1 << 31
_MAX_LAYERS = 1000


@dataclass(frozen=True)
class Config:
    """The fields of `config.json` that the families' computations need; each family's file tells which it has."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """Maximum tokens of a sequence, including those that RoPE scaling adds."""
    rms_norm_eps: float
    tie_word_embeddings: bool

    ropes: tuple[Rope, ...]
    layer_ropes: tuple[int | None, ...]
    """Which of `ropes` each layer has; None for no rotary embedding (NoPE)."""
    windows: tuple[int | None, ...]
    """Sliding window of each layer, in tokens; None for full attention."""

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_multiplier: float | None = None
    """Scale of the attention scores; None for one over the square root of `head_dim`."""
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


def read_config(values: dict[str, Any], **own: Any) -> Config:
    """The fields that all families have, and those that a family gives as it understands them.

    Raises:
        BundleError: a field is missing, out of range, or of a variant that is not covered.
    """
    hidden, heads = integer(values, "hidden_size"), integer(values, "num_attention_heads")
    head_dim = integer(values, "head_dim", hidden // heads)
    kv_heads = integer(values, "num_key_value_heads", heads)
    if heads % kv_heads or head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise BundleError(f"config.json: {heads} heads of {head_dim} elements do not fit {kv_heads} KV heads.")
    layers = layer_count(values)
    ropes = own.pop("ropes", None) or (Rope.from_json(values, head_dim),)
    fields: dict[str, Any] = {
        "vocab_size": integer(values, "vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": integer(values, "intermediate_size"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context_length(values, integer(values, "max_position_embeddings", 2048)),
        "rms_norm_eps": number(values, "rms_norm_eps", 1e-6),
        "tie_word_embeddings": flag(values, "tie_word_embeddings"),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
    }
    return Config(**{**fields, "ropes": ropes, **own})


def integer(values: dict[str, Any], name: str, default: int | None = None) -> int:
    """A positive whole number; `default` where the field is absent or null.

    Raises:
        BundleError: absent without a default, or no positive whole number.
    """
    value = default if values.get(name) is None else values[name]
    if type(value) is not int or not 0 < value < _MAX_INTEGER:
        raise BundleError(f"config.json: {name} is {value!r}, it has to be a positive whole number.")
    return value


def layer_count(values: dict[str, Any]) -> int:
    """`num_hidden_layers`, within what any model has: lists of that length are made of it before a weight is seen."""
    layers = integer(values, "num_hidden_layers")
    if layers > _MAX_LAYERS:
        raise BundleError(f"config.json: num_hidden_layers is {layers}, more than {_MAX_LAYERS}.")
    return layers


def number(values: dict[str, Any], name: str, default: float) -> float:
    """A finite number that is not negative."""
    value = default if values.get(name) is None else values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BundleError(f"config.json: {name} is {value!r}, it has to be a number, at least 0.")
    return float(value)


def positive(values: dict[str, Any], name: str, default: float) -> float:
    """A finite number above 0."""
    if not (value := number(values, name, default)):
        raise BundleError(f"config.json: {name} is 0, it has to be positive.")
    return value


def cap(values: dict[str, Any], name: str) -> float | None:
    """A number above 0, or None where the field is absent or null."""
    return None if values.get(name) is None else positive(values, name, 1.0)


def flag(values: dict[str, Any], name: str, default: bool = False) -> bool:
    """True or false."""
    value = default if values.get(name) is None else values[name]
    if not isinstance(value, bool):
        raise BundleError(f"config.json: {name} is {value!r}, it has to be true or false.")
    return value


def layer_types(values: dict[str, Any], default: list[bool]) -> list[bool]:
    """Whether each layer's attention is sliding: `layer_types`, or `default` where there is none.

    Raises:
        BundleError: there is another number of them than layers, or another type.
    """
    types = values.get("layer_types")
    if types is None:
        return default
    if not isinstance(types, list) or len(types) != layer_count(values):
        raise BundleError("config.json: layer_types has to name one type for each layer.")
    for kind in types:
        if kind not in ("sliding_attention", "full_attention"):
            raise BundleError(f"config.json: the layer type {kind!r} is not covered.", "Use another format.")
    return [kind == "sliding_attention" for kind in types]


def windows(values: dict[str, Any], sliding: list[bool]) -> tuple[int | None, ...]:
    """The window of each layer: `sliding_window` where its attention is sliding."""
    return tuple(integer(values, "sliding_window") if slides else None for slides in sliding)


def refuse(values: dict[str, Any], **covered: object) -> None:
    """Refuse a configuration with a field that has another value than the one that the family's file covers."""
    for name, value in covered.items():
        found = values.get(name)
        if found is not None and found != value:
            raise BundleError(f"config.json: {name} = {found!r} is not covered, only {value!r}.", "Use another format.")
