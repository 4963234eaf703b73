"""Grouped-query attention (arXiv 2305.13245) with what families add to it: norms of heads, windows, caps, no positions.

T is the number of rows (tokens) of a forward pass, d the size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.models.config import Config
from edgereason.models.projections import Projections

Float32 = npt.NDArray[np.float32]
RotaryEmbeddings = Sequence[tuple[Float32, Float32]]
"""Cosines and sines for the rows' positions, `[T, R / 2]` each, of every rotary embedding of the model."""


@dataclass(frozen=True)
class Attention:
    """A layer's `self_attn`."""

    index: int
    qkv_proj: Any  # [(heads + 2 kv_heads) d, hidden]
    o_proj: Any  # [hidden, heads d]
    q_norm: Float32 | None  # [d]
    k_norm: Float32 | None  # [d]
    rope: int | None
    window: int | None


def load(linear: Projections, norm: Callable[[str, int], Float32], c: Config, index: int) -> Attention:
    """The attention of layer `index`; `norm` loads a norm's weight by name and size."""
    name = f"model.layers.{index}.self_attn"
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return Attention(
        index=index,
        qkv_proj=linear(f"{name}.qkv_proj", (q, kv, kv), c.hidden_size, c.qkv_bias),
        o_proj=linear(f"{name}.o_proj", c.hidden_size, q, c.o_bias),
        q_norm=norm(f"{name}.q_norm", c.head_dim) if c.qk_norm else None,
        k_norm=norm(f"{name}.k_norm", c.head_dim) if c.qk_norm else None,
        rope=c.layer_ropes[index],
        window=c.windows[index],
    )


def attend(
    ops: ModuleType, c: Config, self_attn: Attention, h: Float32, rows: Any, rotary: RotaryEmbeddings
) -> Float32:
    """Everything before `o_proj`: `h [T, hidden]` -> float32 `[T, heads d]`."""
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    qkv = ops.linear(h, self_attn.qkv_proj, rows).reshape(len(h), heads + 2 * kv_heads, c.head_dim)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    if self_attn.q_norm is not None and self_attn.k_norm is not None:
        ops.head_norm(q, self_attn.q_norm, c.rms_norm_eps)
        ops.head_norm(k, self_attn.k_norm, c.rms_norm_eps)
    if self_attn.rope is not None:
        ops.rope(qkv[:, : heads + kv_heads], *rotary[self_attn.rope])
    mixed: Float32 = ops.attention(
        q,
        k,
        v,
        self_attn.index,
        rows,
        scale=c.attention_multiplier,
        window=self_attn.window,
        softcap=c.attn_logit_softcapping,
    )
    return mixed


def rotary_embeddings(c: Config, rows: Any) -> RotaryEmbeddings:
    """Cosines and sines of a forward pass, for `attend`."""
    return [rope.cos_sin(rows.positions, rows.limits if rope.depends_on_length else None) for rope in c.ropes]
