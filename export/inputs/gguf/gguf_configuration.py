"""A GGUF file's hyperparameters as the `config.json` of its family.

llama.cpp has some values in its code and not in the file (which layers have a window, the scale of scores); they are
those of `edgereason.export.gguf.families`, which refuses to write a model that has others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgereason.errors import ExportError
from edgereason.export.inputs.gguf.gguf_metadata import GgufMetadata
from edgereason.export.inputs.gguf.llama3_rope import llama3_divisors

Config = dict[str, Any]


def read_configuration(file: GgufMetadata) -> Config:
    """The `config.json` of a file.

    Raises:
        ExportError: the architecture is none that can be exported, or a key is missing.
    """
    if file.architecture not in _FAMILIES:
        raise ExportError(
            f"{file.path} is of the architecture {file.architecture!r}, which is not supported.",
            f"Architectures that are: {', '.join(sorted(_FAMILIES))}.",
        )
    model_type, read = _FAMILIES[file.architecture]
    if file.own("expert_count"):
        raise ExportError(f"{file.path} is a mixture of experts, which is not supported.", "Give another model.")
    if "token_embd.weight" not in file.tensors:
        raise ExportError(f"{file.path} has no token_embd.weight.", "Give a complete model.")
    config = {"model_type": model_type, "architectures": [_CLASSES[model_type]], **_sizes(file), **read(file)}
    return config | {"tie_word_embeddings": "output.weight" not in file.tensors}


def _sizes(file: GgufMetadata) -> Config:
    width, heads = file.integer("embedding_length"), file.integer("attention.head_count")
    return {
        "vocab_size": int(file.tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": file.integer("feed_forward_length"),
        "num_hidden_layers": file.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.integer("attention.head_count_kv", heads),
        "head_dim": file.integer("attention.key_length", width // heads),
        "max_position_embeddings": file.integer("context_length"),
        "rms_norm_eps": file.decimal("attention.layer_norm_rms_epsilon"),
        "bos_token_id": file.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": None,
    }


def _rope(file: GgufMetadata, base: float | None = None) -> Config:
    """`rope_parameters`; scaling that llama.cpp keeps in a tensor is recognized by its numbers."""
    rope: Config = {"rope_theta": file.decimal("rope.freq_base", base), "rope_type": "default"}
    kind = file.own("rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn") or "rope_factors_long.weight" in file.tensors:
        raise ExportError(
            f"{file.path} has the RoPE scaling {kind!r}, which is not supported in {file.architecture} models.",
            "Give the Hugging Face model that it was made from.",
        )
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": file.decimal("rope.scaling.factor")}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = file.integer("rope.scaling.original_context_length")
        for name, key in (
            ("beta_fast", "yarn_beta_fast"),
            ("beta_slow", "yarn_beta_slow"),
            ("attention_factor", "yarn_attn_factor"),
        ):
            if file.own(f"rope.scaling.{key}") is not None:
                rope[name] = file.decimal(f"rope.scaling.{key}")
    if "rope_freqs.weight" in file.tensors:
        rope |= _llama3(file, rope["rope_theta"])
    return {"rope_parameters": rope}


def _llama3(file: GgufMetadata, theta: float) -> Config:
    """The parameters of Llama 3.1's scaling that give the file's divisors of the frequencies."""
    found = np.array(file.tensors["rope_freqs.weight"].data, np.float32).reshape(-1)
    known = {"rope_type": "llama3", "factor": float(found.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for context in (8192, *(1 << power for power in range(5, 18))):
        rope = {**known, "rope_theta": theta, "original_max_position_embeddings": context}
        if np.allclose(llama3_divisors(2 * len(found), rope).numpy(), found, rtol=1e-4):
            return {**known, "original_max_position_embeddings": context}
    raise ExportError(
        f"{file.path} has a RoPE scaling that is not known (rope_freqs.weight).",
        "Give the Hugging Face model that it was made from.",
    )


def _biases(file: GgufMetadata) -> Config:
    return {
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "hidden_act": "silu",
    }


def _llama(file: GgufMetadata) -> Config:
    return {**_rope(file, 10000.0), **_biases(file)}


def _qwen2(file: GgufMetadata) -> Config:
    return {**_rope(file, 10000.0), "hidden_act": "silu", "use_sliding_window": False}


def _qwen3(file: GgufMetadata) -> Config:
    return {**_qwen2(file), "attention_bias": "blk.0.attn_q.bias" in file.tensors}


def _smollm3(file: GgufMetadata) -> Config:
    layers = file.integer("block_count")
    no_rope = [int((index + 1) % 4 != 0) for index in range(layers)]
    return {**_rope(file, 10000.0), **_biases(file), "no_rope_layers": no_rope, "use_sliding_window": False}


def _granite(file: GgufMetadata) -> Config:
    return {
        **_rope(file, 10000.0),
        **_biases(file),
        "attention_multiplier": file.decimal("attention.scale"),
        "embedding_multiplier": file.decimal("embedding_scale"),
        "residual_multiplier": file.decimal("residual_scale"),
        "logits_scaling": file.decimal("logit_scale"),
    }


def _gemma(file: GgufMetadata, every: int, layers_of_27b: int) -> Config:
    layers, width = file.integer("block_count"), file.integer("embedding_length")
    heads = file.integer("attention.head_count")
    head = file.integer("attention.key_length", width // heads)
    slides = file.own("attention.sliding_window_pattern") or every
    if not isinstance(slides, list):
        slides = [(index + 1) % slides != 0 for index in range(layers)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": width // heads if layers == layers_of_27b else head,
        "sliding_window": file.integer("attention.sliding_window"),
        "layer_types": ["sliding_attention" if each else "full_attention" for each in slides],
        "final_logit_softcapping": file.own("final_logit_softcapping"),
        "attn_logit_softcapping": file.own("attn_logit_softcapping"),
        "attention_bias": False,
    }


def _gemma2(file: GgufMetadata) -> Config:
    return {**_gemma(file, 2, 46), **_rope(file, 10000.0)}


def _gemma3(file: GgufMetadata) -> Config:
    local = {"rope_type": "default", "rope_theta": file.decimal("rope.freq_base_swa", 10000.0)}
    full = _rope(file, 1000000.0)["rope_parameters"]
    return {**_gemma(file, 6, 62), "rope_parameters": {"sliding_attention": local, "full_attention": full}}


def _phi3(file: GgufMetadata) -> Config:
    width, heads = file.integer("embedding_length"), file.integer("attention.head_count")
    share = file.integer("rope.dimension_count", width // heads) * heads / width
    context = file.integer("context_length")
    rope: Config = {"rope_theta": file.decimal("rope.freq_base", 10000.0), "rope_type": "default"}
    if {"rope_factors_long.weight", "rope_factors_short.weight"} <= set(file.tensors):
        for length in ("long", "short"):
            rope[f"{length}_factor"] = _numbers(file, f"rope_factors_{length}.weight")
        rope |= {"rope_type": "longrope", "attention_factor": file.decimal("rope.scaling.attn_factor", 1.0)}
    return {
        "rope_parameters": {**rope, "partial_rotary_factor": share},
        "partial_rotary_factor": share,
        "original_max_position_embeddings": file.integer("rope.scaling.original_context_length", context),
        "sliding_window": int(file.own("attention.sliding_window", 0)) or None,
        "hidden_act": "silu",
    }


def _numbers(file: GgufMetadata, name: str) -> list[float]:
    return [float(str(value)) for value in np.array(file.tensors[name].data, np.float32).reshape(-1)]


_FAMILIES: dict[str, tuple[str, Callable[[GgufMetadata], Config]]] = {
    "llama": ("llama", _llama),
    "qwen2": ("qwen2", _qwen2),
    "qwen3": ("qwen3", _qwen3),
    "smollm3": ("smollm3", _smollm3),
    "granite": ("granite", _granite),
    "gemma2": ("gemma2", _gemma2),
    "gemma3": ("gemma3_text", _gemma3),
    "phi3": ("phi3", _phi3),
}
"""By `general.architecture`: the `model_type`, and what reads the rest of its configuration."""

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
