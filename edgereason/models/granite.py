"""Granite: Llama's block with multipliers on embeddings, scores, residuals and logits (Granite 3.0, IBM 2024)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.weights import Weights
from edgereason.models import attention
from edgereason.models.attention import RotaryEmbeddings
from edgereason.models.config import Config, flag, positive, read_config, refuse
from edgereason.models.llama import Layer, Model, build

Float32 = npt.NDArray[np.float32]


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    refuse(values, hidden_act="silu")
    bias = flag(values, "attention_bias")
    multipliers = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
    c = read_config(
        values,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=flag(values, "mlp_bias"),
        **{name: positive(values, name, 1.0) for name in multipliers},
    )
    return build(ops, weights, c)


def block(ops: ModuleType, c: Config, layer: Layer, x: Float32, rows: Any, rotary: RotaryEmbeddings) -> Float32:
    # x: [T, hidden]
    h = ops.rms_norm(x, layer.input_layernorm, c.rms_norm_eps)
    h = attention.attend(ops, c, layer.self_attn, h, rows, rotary)
    x = x + c.residual_multiplier * ops.linear(h, layer.self_attn.o_proj, rows)
    h = ops.rms_norm(x, layer.post_attention_layernorm, c.rms_norm_eps)
    h = ops.swiglu(ops.linear(h, layer.gate_up_proj, rows))
    y: Float32 = x + c.residual_multiplier * ops.linear(h, layer.down_proj, rows)
    return y


def layers(ops: ModuleType, model: Model, ids: npt.NDArray[np.int64], rows: Any, rotary: RotaryEmbeddings) -> Float32:
    """See `edgereason.models.llama.layers`."""
    x: Float32 = ops.embedding(ids, model.embed_tokens) * model.config.embedding_multiplier
    for layer in model.layers:
        x = block(ops, model.config, layer, x, rows, rotary)
    return x


def head(ops: ModuleType, model: Model, x: Float32) -> Float32:
    """See `edgereason.models.llama.head`."""
    x = ops.rms_norm(x, model.norm, model.config.rms_norm_eps)
    return ops.linear(x, model.lm_head) / model.config.logits_scaling  # type: ignore[no-any-return]
