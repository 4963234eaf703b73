"""Llama: grouped-query attention and SwiGLU between RMS norms (Llama 2, arXiv 2307.09288; Llama 3, arXiv 2407.21783).

Also SmolLM2, TinyLlama and everything else whose `model_type` is `llama`. Families that have this block with other
attention build and run it with their own configuration. T is the number of rows
(tokens) of a forward pass.
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
from edgereason.models.config import Config, flag, read_config, refuse
from edgereason.models.projections import Projection, Projections

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    input_layernorm: Float32  # [hidden]
    self_attn: Attention
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
    values = weights.config
    refuse(values, hidden_act="silu", partial_rotary_factor=1.0)
    bias = flag(values, "attention_bias")
    return build(ops, weights, read_config(values, qkv_bias=bias, o_bias=bias, mlp_bias=flag(values, "mlp_bias")))


def build(ops: ModuleType, weights: Weights, c: Config) -> Model:
    """The model of a configuration; see `load`."""
    linear = Projections(ops, weights)

    def layer(index: int) -> Layer:
        name = f"model.layers.{index}"
        return Layer(
            input_layernorm=weights.vector(f"{name}.input_layernorm", c.hidden_size),
            self_attn=attention.load(linear, weights.vector, c, index),
            post_attention_layernorm=weights.vector(f"{name}.post_attention_layernorm", c.hidden_size),
            gate_up_proj=linear(f"{name}.mlp.gate_up_proj", (c.intermediate_size,) * 2, c.hidden_size, c.mlp_bias),
            down_proj=linear(f"{name}.mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias),
        )

    embed_tokens, lm_head = linear.embeddings_and_head(c.vocab_size, c.hidden_size, c.tie_word_embeddings)
    return Model(
        config=c,
        embed_tokens=embed_tokens,
        layers=[layer(index) for index in range(c.num_hidden_layers)],
        norm=weights.vector("model.norm", c.hidden_size),
        lm_head=lm_head,
        projections=linear.found,
    )


def block(ops: ModuleType, c: Config, layer: Layer, x: Float32, rows: Any, rotary: RotaryEmbeddings) -> Float32:
    # x: [T, hidden]   rows: which sequence, position and adapter each row belongs to
    h = ops.rms_norm(x, layer.input_layernorm, c.rms_norm_eps)
    h = attention.attend(ops, c, layer.self_attn, h, rows, rotary)
    x = ops.linear(h, layer.self_attn.o_proj, rows, add=x)
    h = ops.rms_norm(x, layer.post_attention_layernorm, c.rms_norm_eps)
    y: Float32 = ops.linear(ops.swiglu(ops.linear(h, layer.gate_up_proj, rows)), layer.down_proj, rows, add=x)
    return y


def layers(ops: ModuleType, model: Model, ids: npt.NDArray[np.int64], rows: Any, rotary: RotaryEmbeddings) -> Float32:
    """Forward pass of the tokens `ids [T]`, each at its row's position; keys and values go to the rows' KV caches.

    Returns:
        Hidden states after the last layer: float32 `[T, hidden]`, for `head`.
    """
    x: Float32 = ops.embedding(ids, model.embed_tokens)
    for layer in model.layers:
        x = block(ops, model.config, layer, x, rows, rotary)
    return x


def head(ops: ModuleType, model: Model, x: Float32) -> Float32:
    """Logits, float32 `[T, vocab]`, of what follows each of the hidden states `x [T, hidden]`."""
    x = ops.rms_norm(x, model.norm, model.config.rms_norm_eps)
    return ops.linear(x, model.lm_head)  # type: ignore[no-any-return]
