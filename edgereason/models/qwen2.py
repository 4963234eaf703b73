"""Qwen2 and Qwen2.5: Llama's block with biases on q, k and v (Qwen2 Technical Report, arXiv 2407.10671).

Where `use_sliding_window` is set, the layers from `max_window_layers` on have a window.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edgereason.checkpoints.weights import Weights
from edgereason.models.config import flag, layer_count, layer_types, number, read_config, refuse, windows
from edgereason.models.llama import Model, build, head, layers

__all__ = ["head", "layer_windows", "layers", "load"]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    refuse(values, hidden_act="silu")
    return build(ops, weights, read_config(values, qkv_bias=True, windows=layer_windows(values)))


def layer_windows(values: dict[str, Any]) -> tuple[int | None, ...]:
    """The window of each layer."""
    layers = layer_count(values)
    if not flag(values, "use_sliding_window") or values.get("sliding_window") is None:
        return (None,) * layers
    first = number(values, "max_window_layers", 28)
    return windows(values, layer_types(values, [index >= first for index in range(layers)]))
