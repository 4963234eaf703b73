"""What an adapter may change, by name: arguments of PEFT's LoraConfig."""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "all linear layers": {"target_modules": "all-linear"},
    "patterns": {"rank_pattern": {"layers.1.*q_proj": 2, "down_proj": 7}, "alpha_pattern": {"v_proj": 1.5}},
    "rank-stabilized": {"use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "DoRA": {"use_dora": True},
    "rank-stabilized DoRA with patterns": {"use_dora": True, "use_rslora": True, "alpha_pattern": {"q_proj": 3}},
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "all but some": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "all biases": {"bias": "all"},
    "their biases": {"bias": "lora_only"},
    "bias of LoRA": {"lora_bias": True},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved and tied tables": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "saved norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both tables": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "both tables, tied": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "embeddings and a saved head": {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
    "some tokens": {"trainable_token_indices": [3, 8, 21]},
    "other tokens of the head": {"trainable_token_indices": {"embed_tokens": [3, 8], "lm_head": [3, 21]}},
    "some tokens and the head": {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": [3, 8, 21]},
}


def of_new_tokens(tokens: list[int]) -> dict[str, dict[str, Any]]:
    """How tokens are trained that were added to the vocabulary, by name: arguments of PEFT's LoraConfig."""
    return {
        "saved tables": VARIANTS["saved tables"],
        "saved embeddings": VARIANTS["saved embeddings"],
        "saved head": VARIANTS["saved head"],
        "saved and tied tables": VARIANTS["saved and tied tables"],
        "embeddings": VARIANTS["embeddings"],
        "head": VARIANTS["head"],
        "both tables": VARIANTS["both tables"],
        "both tables, tied": VARIANTS["both tables, tied"],
        "embeddings and a saved head": VARIANTS["embeddings and a saved head"],
        "the new tokens": {"trainable_token_indices": tokens},
        "the new tokens, tied": {"trainable_token_indices": tokens, "ensure_weight_tying": True},
        "the new tokens and an old one": {"trainable_token_indices": {"embed_tokens": [3, *tokens]}},
        "the new tokens of each table": {"trainable_token_indices": {"embed_tokens": tokens, "lm_head": tokens}},
        "other tokens of the head": {"trainable_token_indices": {"embed_tokens": tokens, "lm_head": [3, *tokens]}},
        "the new tokens and the head": {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": tokens},
    }
