"""Llama: grouped-query attention and SwiGLU between RMS norms (Llama 2, arXiv 2307.09288; Llama 3, arXiv 2407.21783).

Also SmolLM2, TinyLlama and everything else whose `model_type` is `llama`. T is the number of rows (tokens) of a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError
from edgereason.models import rope
from edgereason.models.config import integer, number, refuse
from edgereason.models.projections import Projection, Projections
from edgereason.weights import Weights

Float32 = npt.NDArray[np.float32]
MAX_HEAD_DIM = 512  # what the attention kernels have room for


@dataclass(frozen=True)
class Config:
    """The fields of `config.json` that the computation needs, and the frequencies of its rotary embedding."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    inv_freq: Float32  # [head_dim / 2]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        """Raises `BundleError` where a field is missing, out of range, or of a variant that is not covered."""
        refuse(values, hidden_act="silu", attention_bias=False, mlp_bias=False, partial_rotary_factor=1.0)
        hidden, heads = integer(values, "hidden_size"), integer(values, "num_attention_heads")
        head_dim = integer(values, "head_dim", hidden // heads)
        kv_heads = integer(values, "num_key_value_heads", heads)
        if heads % kv_heads or head_dim % 2 or head_dim > MAX_HEAD_DIM:
            raise BundleError(f"config.json: {heads} heads of {head_dim} elements do not fit {kv_heads} KV heads.")
        return cls(
            vocab_size=integer(values, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=integer(values, "intermediate_size"),
            num_hidden_layers=integer(values, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            max_position_embeddings=integer(values, "max_position_embeddings", 2048),
            rms_norm_eps=number(values, "rms_norm_eps", 1e-6),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
            inv_freq=rope.inverse_frequencies(values, head_dim),
        )


@dataclass(frozen=True)
class Layer:
    index: int
    input_layernorm: Float32  # [hidden]
    qkv_proj: Any  # [(heads + 2 kv_heads) d, hidden]
    o_proj: Any  # [hidden, heads d]
    post_attention_layernorm: Float32  # [hidden]
    gate_up_proj: Any  # [2 intermediate, hidden]
    down_proj: Any  # [hidden, intermediate]


@dataclass(frozen=True)
class Model:
    config: Config
    embed_tokens: Any  # [vocab, hidden]
    layers: list[Layer]
    norm: Float32  # [hidden]
    lm_head: Any  # [vocab, hidden]
    projections: dict[str, Projection]


def load(ops: ModuleType, weights: Weights) -> Model:
    """The model of a directory, its weights prepared for the backend `ops`.

    Raises:
        BundleError: the configuration or a weight is missing, of another shape, or not covered.
    """
    c = Config.from_json(weights.config)
    q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim

    linear = Projections(ops, weights)

    def layer(index: int) -> Layer:
        name = f"model.layers.{index}"
        return Layer(
            index=index,
            input_layernorm=weights.vector(f"{name}.input_layernorm", c.hidden_size),
            qkv_proj=linear(f"{name}.self_attn.qkv_proj", (q, kv, kv), c.hidden_size),
            o_proj=linear(f"{name}.self_attn.o_proj", c.hidden_size, q),
            post_attention_layernorm=weights.vector(f"{name}.post_attention_layernorm", c.hidden_size),
            gate_up_proj=linear(f"{name}.mlp.gate_up_proj", (c.intermediate_size,) * 2, c.hidden_size),
            down_proj=linear(f"{name}.mlp.down_proj", c.hidden_size, c.intermediate_size),
        )

    embed_tokens = linear("model.embed_tokens", c.vocab_size, c.hidden_size)
    return Model(
        config=c,
        embed_tokens=embed_tokens,
        layers=[layer(index) for index in range(c.num_hidden_layers)],
        norm=weights.vector("model.norm", c.hidden_size),
        lm_head=embed_tokens if c.tie_word_embeddings else linear("lm_head", c.vocab_size, c.hidden_size),
        projections=linear.found,
    )


def block(ops: ModuleType, c: Config, layer: Layer, x: Float32, rows: Any, angles: Any) -> Float32:
    # x: [T, hidden]   rows: which sequence, position and adapter each row belongs to   angles: cos and sin, [T, d / 2]
    heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
    h = ops.rms_norm(x, layer.input_layernorm, c.rms_norm_eps)
    qkv = ops.linear(h, layer.qkv_proj, rows).reshape(len(x), heads + 2 * kv_heads, c.head_dim)
    ops.rope(qkv[:, : heads + kv_heads], *angles)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    x = ops.linear(ops.attention(q, k, v, layer.index, rows), layer.o_proj, rows, add=x)
    h = ops.rms_norm(x, layer.post_attention_layernorm, c.rms_norm_eps)
    y: Float32 = ops.linear(ops.swiglu(ops.linear(h, layer.gate_up_proj, rows)), layer.down_proj, rows, add=x)
    return y


def forward(ops: ModuleType, model: Model, ids: npt.NDArray[np.int64], rows: Any) -> Float32:
    """Compute the tokens `ids [T]`, each at its row's place; keys and values go to the rows' caches.

    Returns:
        float32 logits `[len(rows.outputs), vocab]` of what follows the rows whose logits are wanted.
    """
    c = model.config
    angles = rope.angles(rows.positions, c.inv_freq)
    x = ops.embedding(ids, model.embed_tokens)
    for layer in model.layers:
        x = block(ops, c, layer, x, rows, angles)
    x = ops.rms_norm(x[rows.outputs], model.norm, c.rms_norm_eps)
    return ops.linear(x, model.lm_head)  # type: ignore[no-any-return]
