"""Mistral: Llama's block with a sliding window in every layer (Mistral 7B, arXiv 2310.06825)."""

from __future__ import annotations

from types import ModuleType

from edgereason.checkpoints.weights import Weights
from edgereason.models.config import layer_count, read_config, refuse, windows
from edgereason.models.llama import Model, build, head, layers

__all__ = ["head", "layers", "load"]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    refuse(values, hidden_act="silu")
    sliding = [values.get("sliding_window") is not None] * layer_count(values)
    return build(ops, weights, read_config(values, windows=windows(values, sliding)))
