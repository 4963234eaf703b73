"""Qwen3: Llama's block with a norm for each head of q and k (Qwen3 Technical Report, arXiv 2505.09388)."""

from __future__ import annotations

from types import ModuleType

from edgereason.checkpoints.weights import Weights
from edgereason.models.config import flag, read_config, refuse
from edgereason.models.llama import Model, build, head, layers
from edgereason.models.qwen2 import layer_windows

__all__ = ["head", "layers", "load"]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    refuse(values, hidden_act="silu")
    bias = flag(values, "attention_bias")
    c = read_config(
        {"head_dim": 128, **values}, qk_norm=True, qkv_bias=bias, o_bias=bias, windows=layer_windows(values)
    )
    return build(ops, weights, c)
