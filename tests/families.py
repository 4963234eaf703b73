"""Small random models of every family, with all its oddities, and what each of them does to its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Family:
    """A family's configuration with everything that it may have, and changes that each must be noticed."""

    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    without: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the name of an oddity: the fields of config.json that a model without it would have."""

    def config(self, **changes: Any) -> Any:
        return AutoConfig.for_model(self.model_type, **{**SIZES, **self.settings, **changes})


def scaled(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 1e4, **parameters}}


SHORT, LONG = [1.0 + 0.1 * i for i in range(6)], [2.0 + 0.5 * i for i in range(6)]
PLAIN = scaled(rope_type="default")

FAMILIES = {
    "llama": Family(
        "llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 32,
            **scaled(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        },
        {"scaled positions": PLAIN},
    ),
    "mistral": Family("mistral", {"sliding_window": 24, "head_dim": 24}, {"window": {"sliding_window": None}}),
    "qwen2": Family(
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 24,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
            **scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=64),
        },
        {"window": {"use_sliding_window": False}, "yarn": PLAIN},
    ),
    "qwen3": Family("qwen3", {"head_dim": 32, "attention_bias": True, **scaled(rope_type="linear", factor=2.0)}),
    "gemma2": Family(
        "gemma2",
        {
            "head_dim": 32,
            "sliding_window": 24,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        {
            "cap of scores": {"attn_logit_softcapping": None},
            "cap of logits": {"final_logit_softcapping": None},
            "scale of scores": {"query_pre_attn_scalar": 32},
            "window": {"sliding_window": 500},
        },
    ),
    "gemma3": Family(
        "gemma3_text",
        {
            "head_dim": 32,
            "sliding_window": 24,
            "query_pre_attn_scalar": 10,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
            },
        },
        {
            "scale of scores": {"query_pre_attn_scalar": 32},
            "window": {"sliding_window": 500},
            "order of layers": {"layer_types": None},
            "local positions": scaled(rope_type="linear", factor=4.0),
        },
    ),
    "phi3": Family(
        "phi3",
        {
            "num_attention_heads": 4,
            "sliding_window": 400,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 40,
            **scaled(rope_type="longrope", short_factor=SHORT, long_factor=LONG, partial_rotary_factor=0.75),
        },
        {
            "window": {"sliding_window": 24},
            "long": scaled(rope_type="longrope", short_factor=SHORT, long_factor=SHORT, partial_rotary_factor=0.75),
        },
    ),
    "phi3 with a window": Family("phi3", {"sliding_window": 24}, {"window": {"sliding_window": None}}),
    "smollm3": Family(
        "smollm3",
        {
            "no_rope_layers": [1, 0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": 24,
            "attention_bias": True,
            "mlp_bias": True,
        },
        {
            "no positions": {"no_rope_layers": [1, 1, 1, 1]},
            "window": {"use_sliding_window": False},
        },
    ),
    "granite": Family(
        "granite",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "attention_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "logits_scaling": 4.0,
        },
        {
            "scale of scores": {"attention_multiplier": 0.25},
            "scale of embeddings": {"embedding_multiplier": 1.0},
            "scale of residuals": {"residual_multiplier": 1.0},
            "scale of logits": {"logits_scaling": 1.0},
        },
    ),
}


def save_family(name: str, directory: Path, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Save a random model in fp32, whose every weight is large enough to matter; `changes` are for its config.json."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        FAMILIES[name].config(**changes), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
            else:
                parameter.normal_(std=0.5 if parameter_name.endswith("bias") else 1.2 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(directory)
    return model
