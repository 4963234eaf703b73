"""Phi-3, Phi-3.5 and Phi-4-mini: Llama's block with partial rotary embeddings (Phi-3, arXiv 2404.14219).

Checkpoints have q, k and v in one `qkv_proj`, gate and up in one `gate_up_proj`, and longrope for long contexts.
"""

from __future__ import annotations

from types import ModuleType

from edgereason.checkpoints.weights import Weights
from edgereason.models.config import layer_count, read_config, refuse, windows
from edgereason.models.llama import Model, build, head, layers

__all__ = ["head", "layers", "load"]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    refuse(values, hidden_act="silu", attention_bias=False)
    sliding = [values.get("sliding_window") is not None] * layer_count(values)
    c = read_config({"rms_norm_eps": 1e-5, **values}, windows=windows(values, sliding))
    return build(ops, weights, c)
