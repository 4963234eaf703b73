"""RoPE in GGUF: its keys, the frequencies that are tensors, and the order of the rows that llama.cpp rotates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gguf
import torch
from torch import Tensor

from edgereason.export.inputs.gguf.llama3_rope import llama3_divisors


def head_dim(config: Any) -> int:
    """Elements of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rotated(config: Any) -> int:
    """Elements of a head that RoPE rotates."""
    share = float(config.rope_parameters.get("partial_rotary_factor") or 1.0)
    return int(share * config.hidden_size) // int(config.num_attention_heads)


def differences(config: Any, known: frozenset[str]) -> Iterator[str]:
    """What llama.cpp would rotate differently, given the RoPE types that it computes for the family."""
    kinds = config.rope_parameters
    local = kinds.get("sliding_attention", {"rope_type": "default"})
    if local["rope_type"] != "default":
        yield f'llama.cpp does not scale the positions of local attention, config.json asks for "{local["rope_type"]}"'
    values = kinds.get("full_attention", kinds)
    if values["rope_type"] not in known:
        yield f'llama.cpp has no RoPE of the type "{values["rope_type"]}" in this family'
    if values["rope_type"] == "yarn":
        for name in ("mscale", "mscale_all_dim"):
            if values.get(name):
                yield f"llama.cpp does not support the {name} of YaRN"
        if not values.get("truncate", True):
            yield "llama.cpp rounds the ramp of YaRN to whole pairs, config.json asks it not to"
        if (values.get("beta_fast") or 32, values.get("beta_slow") or 1) != (32, 1):
            yield "llama.cpp takes 32 and 1 for beta_fast and beta_slow of YaRN in this family, config.json has others"
    if values.get("partial_rotary_factor", 1.0) != 1.0 and "longrope" not in known:
        yield "llama.cpp rotates whole heads in this family, config.json only a part"


def write_keys(writer: gguf.GGUFWriter, rope: dict[str, Any]) -> None:
    """Add the base frequency and the scaling. `llama3` scaling has no key: it is the tensor `rope_freqs`."""
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for name in ("beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{name}")(rope[name])
        if rope.get("attention_factor") is not None:
            writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
            # What llama.cpp multiplies its own factor with (YaRN, arXiv 2309.00071, section 3.4) in all families.
            own = 0.1 * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0
            writer.add_rope_scaling_attn_factors(rope["attention_factor"] / own)


def longrope_scale(config: Any) -> float:
    """LongRoPE's (arXiv 2402.13753) scale of cosine and sine."""
    given = config.rope_parameters.get("attention_factor")
    if given is not None:
        return float(given)
    original = config.original_max_position_embeddings
    factor = config.max_position_embeddings / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def extra_tensors(config: Any) -> dict[str, Tensor]:
    """Tensors that no checkpoint holds, by GGUF name: float32 `[rotated / 2]` divisors of the frequencies."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if rope["rope_type"] == "longrope":
        return {
            f"rope_factors_{length}.weight": torch.tensor(rope[f"{length}_factor"], dtype=torch.float32)
            for length in ("long", "short")
        }
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": llama3_divisors(head_dim(config), rope)}
    return {}


def interleave_halves(tensor: Tensor, heads: int) -> Tensor:
    """Rows of q or k `[heads * d, ...]` so that row i of a head's first half stands beside row i of its second."""
    # [heads * d, ...] -> [heads, 2, d/2, ...] -> [heads, d/2, 2, ...] -> [heads * d, ...]
    halves = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
