"""Llama in GGUF: keys, tensor layout, and rotary frequencies, as llama.cpp's `llama` architecture expects them.

GGUF specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from typing import Any

import gguf
import torch
from torch import Tensor

from edgereason.errors import ExportError

ARCH = gguf.MODEL_ARCH.LLAMA


def write_keys(writer: gguf.GGUFWriter, config: Any) -> None:
    """Add the hyperparameters of a `LlamaConfig`.

    Raises:
        ExportError: the rotary embedding is of a kind that llama.cpp cannot be told about.
    """
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(config.head_dim)
    write_rope_keys(writer, config.rope_parameters)


def write_rope_keys(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    """Add the base frequency and the scaling. `llama3` scaling has no key: it is the tensor `rope_freqs`."""
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        optional = {
            "extrapolation_factor": writer.add_rope_scaling_yarn_ext_factor,
            "attention_factor": writer.add_rope_scaling_yarn_attn_factor,
            "beta_fast": writer.add_rope_scaling_yarn_beta_fast,
            "beta_slow": writer.add_rope_scaling_yarn_beta_slow,
        }
        for name, add in optional.items():
            if rope.get(name) is not None:
                add(rope[name])
    elif kind not in ("default", "llama3"):
        raise ExportError(
            f'config.json asks for rope_type "{kind}", which GGUF has no keys for in this family.',
            "Export with --format native or --format onnx.",
        )


def transform(name: str, tensor: Tensor, config: Any) -> Tensor:
    """A checkpoint's tensor as llama.cpp stores it.

    Hugging Face rotates the two halves of a head against each other, llama.cpp neighbouring pairs: the rows of
    q and k move so that row i of the first half stands beside row i of the second.
    """
    if name.endswith(("q_proj.weight", "q_proj.bias")):
        return interleave_halves(tensor, config.num_attention_heads)
    if name.endswith(("k_proj.weight", "k_proj.bias")):
        return interleave_halves(tensor, config.num_key_value_heads)
    return tensor


def interleave_halves(tensor: Tensor, heads: int) -> Tensor:
    # [heads * d, ...] -> [heads, 2, d/2, ...] -> [heads, d/2, 2, ...] -> [heads * d, ...]
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def extra_tensors(config: Any) -> dict[str, Tensor]:
    """Tensors that no checkpoint holds, by GGUF name: the divisors of Llama 3's rotary frequencies, f32 `[d/2]`."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return {}
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = (1.0 / rope["rope_theta"] ** exponents).tolist()
    return {"rope_freqs.weight": torch.tensor([_llama3_divisor(each, rope) for each in frequencies])}


def _llama3_divisor(frequency: float, rope: dict[str, Any]) -> float:
    """By how much Llama 3.1 slows a rotation down: short waves not at all, long ones by `factor`, between them mixed.

    The Llama 3 Herd of Models (arXiv 2407.21783), as in transformers' `llama3` rotary embedding.
    """
    wavelength = 2 * math.pi / frequency
    factor, context = float(rope["factor"]), float(rope["original_max_position_embeddings"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    if wavelength < context / high:
        return 1.0
    if wavelength > context / low:
        return factor
    share = (context / wavelength - low) / (high - low)
    return 1.0 / ((1.0 - share) / factor + share)
