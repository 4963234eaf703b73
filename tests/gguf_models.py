"""Random models of every family in the configurations that llama.cpp computes, for GGUF's writers and readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from families import save_family, scaled
from pieces import save_pieces
from random_model import save_tokenizer

YARN = scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1)
GEMMA3_ROPE = {
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
    }
}
NO_WINDOW = {"sliding_window": None, "use_sliding_window": False}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
# The oddities of each family that llama.cpp computes, by name: a configuration of families.py, and changes of it.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama yarn, tied": ("llama", {"tie_word_embeddings": True, **NO_BIAS, **YARN}),
    "mistral": ("mistral", NO_WINDOW),
    "mistral linear": ("mistral", {**NO_WINDOW, **scaled(rope_type="linear", factor=3.0)}),
    "qwen2": ("qwen2", NO_WINDOW),
    "qwen2 plain": ("qwen2", {**NO_WINDOW, "tie_word_embeddings": False, **scaled(rope_type="default")}),
    "qwen3": ("qwen3", NO_BIAS),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3", {"query_pre_attn_scalar": 32, "layer_types": None, "num_hidden_layers": 7, **GEMMA3_ROPE}),
    "phi3": ("phi3", {}),
    "phi3 plain, tied": ("phi3 with a window", {"sliding_window": None, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {**NO_WINDOW, **NO_BIAS, "no_rope_layers": None}),
    "granite": ("granite", {}),
}


def save_gguf_model(name: str, directory: Path, **changes: Any) -> Any:
    """Save a model of `MODELS` with its tokenizer."""
    family, own = MODELS[name]
    model = save_family(family, directory, **{**own, **changes})
    if name.startswith(("gemma", "phi3")):  # the converter asks for tokenizer.model
        save_pieces(directory, prefix=not name.startswith("gemma"))
    else:
        save_tokenizer(directory)
    return model
