"""Gemma 2: norms before and after attention and GeGLU, capped scores and logits, a window in every other layer.

Gemma 2, arXiv 2408.00118. Norms multiply with one plus their weight, which is added when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.weights import Weights
from edgereason.models import attention
from edgereason.models.attention import Attention, RotaryEmbeddings
from edgereason.models.config import (
    Config,
    cap,
    flag,
    integer,
    layer_count,
    layer_types,
    positive,
    read_config,
    refuse,
    windows,
)
from edgereason.models.projections import Projection, Projections

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    input_layernorm: Float32  # [hidden], as the three below
    self_attn: Attention
    post_attention_layernorm: Float32
    pre_feedforward_layernorm: Float32
    gate_up_proj: Any  # [2 intermediate, hidden]
    down_proj: Any  # [hidden, intermediate]
    post_feedforward_layernorm: Float32


@dataclass(frozen=True)
class Model:
    config: Config
    embed_tokens: Any  # [vocab, hidden]
    layers: list[Layer]
    norm: Float32  # [hidden]
    lm_head: Any  # [vocab, hidden]
    projections: dict[str, Projection]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = {"head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True, **weights.config}
    sliding = layer_types(values, [index % 2 == 0 for index in range(layer_count(values))])
    return build(ops, weights, config(values, windows=windows(values, sliding)))


def config(values: dict[str, Any], **own: Any) -> Config:
    """What Gemma 2 and 3 have in common."""
    refuse(values, hidden_activation="gelu_pytorch_tanh", use_bidirectional_attention=False)
    bias = flag(values, "attention_bias")
    return read_config(
        values,
        qkv_bias=bias,
        o_bias=bias,
        attention_multiplier=positive(values, "query_pre_attn_scalar", 256) ** -0.5,
        attn_logit_softcapping=cap(values, "attn_logit_softcapping"),
        final_logit_softcapping=cap(values, "final_logit_softcapping"),
        embedding_multiplier=integer(values, "hidden_size") ** 0.5,
        **own,
    )


def build(ops: ModuleType, weights: Weights, c: Config) -> Model:
    """The model of a configuration; see `load`."""
    linear = Projections(ops, weights)

    def norm(name: str, size: int = c.hidden_size) -> Float32:
        weight: Float32 = weights.vector(name, size) + np.float32(1)
        return weight

    def layer(index: int) -> Layer:
        name = f"model.layers.{index}"
        return Layer(
            input_layernorm=norm(f"{name}.input_layernorm"),
            self_attn=attention.load(linear, norm, c, index),
            post_attention_layernorm=norm(f"{name}.post_attention_layernorm"),
            pre_feedforward_layernorm=norm(f"{name}.pre_feedforward_layernorm"),
            gate_up_proj=linear(f"{name}.mlp.gate_up_proj", (c.intermediate_size,) * 2, c.hidden_size),
            down_proj=linear(f"{name}.mlp.down_proj", c.hidden_size, c.intermediate_size),
            post_feedforward_layernorm=norm(f"{name}.post_feedforward_layernorm"),
        )

    embed_tokens, lm_head = linear.embeddings_and_head(c.vocab_size, c.hidden_size, c.tie_word_embeddings)
    return Model(
        config=c,
        embed_tokens=embed_tokens,
        layers=[layer(index) for index in range(c.num_hidden_layers)],
        norm=norm("model.norm"),
        lm_head=lm_head,
        projections=linear.found,
    )


def block(ops: ModuleType, c: Config, layer: Layer, x: Float32, rows: Any, rotary: RotaryEmbeddings) -> Float32:
    # x: [T, hidden]
    h = ops.rms_norm(x, layer.input_layernorm, c.rms_norm_eps)
    h = attention.attend(ops, c, layer.self_attn, h, rows, rotary)
    h = ops.linear(h, layer.self_attn.o_proj, rows)
    x = x + ops.rms_norm(h, layer.post_attention_layernorm, c.rms_norm_eps)
    h = ops.rms_norm(x, layer.pre_feedforward_layernorm, c.rms_norm_eps)
    h = ops.linear(ops.geglu(ops.linear(h, layer.gate_up_proj, rows)), layer.down_proj, rows)
    y: Float32 = x + ops.rms_norm(h, layer.post_feedforward_layernorm, c.rms_norm_eps)
    return y


def layers(ops: ModuleType, model: Model, ids: npt.NDArray[np.int64], rows: Any, rotary: RotaryEmbeddings) -> Float32:
    """See `edgereason.models.llama.layers`."""
    x: Float32 = ops.embedding(ids, model.embed_tokens) * model.config.embedding_multiplier
    for layer in model.layers:
        x = block(ops, model.config, layer, x, rows, rotary)
    return x


def head(ops: ModuleType, model: Model, x: Float32) -> Float32:
    """See `edgereason.models.llama.head`."""
    c = model.config
    logits: Float32 = ops.linear(ops.rms_norm(x, model.norm, c.rms_norm_eps), model.lm_head)
    if c.final_logit_softcapping is not None:
        ops.softcap(logits, c.final_logit_softcapping)
    return logits
