"""SmolLM3: Llama's block, with no positional embedding in every fourth layer (NoPE, arXiv 2501.18795)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edgereason.checkpoints.weights import Weights
from edgereason.errors import BundleError
from edgereason.models.config import flag, integer, layer_count, layer_types, read_config, refuse, windows
from edgereason.models.llama import Model, build, head, layers

__all__ = ["head", "layers", "load"]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = {"tie_word_embeddings": True, **weights.config}
    refuse(values, hidden_act="silu")
    with_rope = _rope_layers(values)
    sliding = [False] * len(with_rope)
    if flag(values, "use_sliding_window") and values.get("sliding_window") is not None:
        sliding = layer_types(values, [not has_rope for has_rope in with_rope])
    bias = flag(values, "attention_bias")
    c = read_config(
        values,
        layer_ropes=tuple(0 if has_rope else None for has_rope in with_rope),
        windows=windows(values, sliding),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(values, "mlp_bias"),
    )
    return build(ops, weights, c)


def _rope_layers(values: dict[str, Any]) -> list[bool]:
    """Which layers have rotary embeddings: `no_rope_layers`, which has a one for each that does."""
    layers, with_rope = layer_count(values), values.get("no_rope_layers")
    if with_rope is None:
        interval = integer(values, "no_rope_layer_interval", 4)
        return [(index + 1) % interval != 0 for index in range(layers)]
    if not isinstance(with_rope, list) or len(with_rope) != layers:
        raise BundleError("config.json: no_rope_layers has to have a number for each layer.")
    return [bool(has_rope) for has_rope in with_rope]
