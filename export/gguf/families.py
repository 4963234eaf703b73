"""Each family in llama.cpp: its architecture, its keys, and the tensors that it stores or computes differently.

Keys are those of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), their values those
that llama.cpp's own converter writes. What llama.cpp would silently compute differently is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import gguf
from gguf import MODEL_ARCH, GGUFWriter
from torch import Tensor

from edgereason.export.gguf import rope_conversion as rope

_QKV = frozenset({"attn_q", "attn_k", "attn_v", "attn_qkv"})
_ALL = _QKV | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}
_PLAIN = frozenset({"default", "linear", "yarn"})


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
        arch: The architecture in llama.cpp.
        write_keys: Writes the hyperparameters of a `config.json`.
        rope_types: The RoPE types that llama.cpp computes for it.
        biases: The tensors to which llama.cpp adds a bias.
        rotates_neighbours: llama.cpp rotates neighbouring rows of a head against each other where Hugging Face rotates
            its two halves: rows of q and k change places.
        norm_offset: Added to the weights of norms: Gemma's norms multiply by 1 + weight.
        activation: The MLP's activation, by its name in `config.json`.
        has_windows: Whether llama.cpp computes sliding-window attention in the layers of `layer_types`.
        unlike: Yields what else llama.cpp would compute differently, one clause each.
    """

    arch: MODEL_ARCH
    write_keys: Callable[[GGUFWriter, Any], None]
    rope_types: frozenset[str] = _PLAIN
    biases: frozenset[str] = _QKV
    rotates_neighbours: bool = False
    norm_offset: float = 0.0
    activation: str = "silu"
    has_windows: bool = False
    unlike: Callable[[Any], Iterator[str]] = lambda config: iter(())

    def differences(self, config: Any) -> Iterator[str]:
        """What llama.cpp would compute differently from a configuration, one clause each."""
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        if activation != self.activation:
            yield f"llama.cpp's MLP of this family uses {self.activation}, config.json says {activation}"
        yield from rope.differences(config, self.rope_types)
        yield from self.unlike(config)

    def unseen_window(self, config: Any) -> int | None:
        """The sliding window that the model has and llama.cpp does not compute; None without one."""
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        window: int | None = getattr(config, "sliding_window", None)
        slides = window is not None and "sliding_attention" in kinds and window < config.max_position_embeddings
        return window if slides and not self.has_windows else None


def _sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _head_length(writer: GGUFWriter, config: Any) -> None:
    if getattr(config, "head_dim", None) is not None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)


def _qwen(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config)
    _head_length(writer, config)
    rope.write_keys(writer, config.rope_parameters)


def _llama(writer: GGUFWriter, config: Any) -> None:
    _qwen(writer, config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(rope.head_dim(config))


def _granite(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config)
    rope.write_keys(writer, config.rope_parameters)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(rope.head_dim(config))
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)


def _gemma2(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config)
    _head_length(writer, config)
    writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.rope_parameters["rope_theta"] != 10000.0:  # which llama.cpp takes where there is no key
        rope.write_keys(writer, config.rope_parameters)
    _windows(writer, config, every=2)


def _gemma3(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config)
    _head_length(writer, config)
    rope.write_keys(writer, config.rope_parameters["full_attention"])
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _windows(writer, config, every=6)


def _windows(writer: GGUFWriter, config: Any, every: int) -> None:
    """The window, and which layers have it where that is not all but each `every`th, as llama.cpp assumes."""
    writer.add_sliding_window(config.sliding_window)
    slides = [kind == "sliding_attention" for kind in config.layer_types]
    if slides != [(index + 1) % every != 0 for index in range(config.num_hidden_layers)]:
        writer.add_sliding_window_pattern(slides)


def _phi3(writer: GGUFWriter, config: Any) -> None:
    _sizes(writer, config)
    writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_rope_dimension_count(rope.rotated(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "longrope":
        writer.add_rope_scaling_attn_factors(rope.longrope_scale(config))
    writer.add_sliding_window(config.sliding_window or 0)


def _even_heads(config: Any) -> Iterator[str]:
    if rope.head_dim(config) * config.num_attention_heads != config.hidden_size:
        yield "llama.cpp's heads of this family divide hidden_size among them, config.json has another head_dim"


def _smollm3_unlike(config: Any) -> Iterator[str]:
    if list(config.no_rope_layers) != [int((index + 1) % 4 != 0) for index in range(config.num_hidden_layers)]:
        yield "llama.cpp skips RoPE in every fourth layer, config.json's no_rope_layers in others"


def _gemma_scale(config: Any, layers_of_27b: int) -> Iterator[str]:
    """llama.cpp knows the scale of scores by the size of the model, not by a key."""
    expected = rope.head_dim(config)
    if config.num_hidden_layers == layers_of_27b:
        expected = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != expected:
        yield f"llama.cpp scales scores by 1/sqrt({expected}), config.json's query_pre_attn_scalar is " + str(
            config.query_pre_attn_scalar
        )


def _gemma2_unlike(config: Any) -> Iterator[str]:
    yield from _gemma_scale(config, 46)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if not getattr(config, name):
            yield f"llama.cpp always caps logits and scores, config.json's {name} is {getattr(config, name)}"


def _gemma3_unlike(config: Any) -> Iterator[str]:
    yield from _gemma_scale(config, 62)
    if getattr(config, "attn_logit_softcapping", None):
        yield "llama.cpp does not cap the scores of Gemma 3, config.json has attn_logit_softcapping"


_LLAMA = Family(MODEL_ARCH.LLAMA, _llama, _PLAIN | {"llama3"}, _ALL, rotates_neighbours=True)

GGUF_FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "smollm3": Family(MODEL_ARCH.SMOLLM3, _llama, rotates_neighbours=True, unlike=_smollm3_unlike),
    "granite": Family(
        MODEL_ARCH.GRANITE, _granite, _PLAIN | {"llama3"}, _ALL, rotates_neighbours=True, unlike=_even_heads
    ),
    "qwen2": Family(MODEL_ARCH.QWEN2, _qwen, unlike=_even_heads),
    "qwen3": Family(MODEL_ARCH.QWEN3, _qwen),
    "gemma2": Family(
        MODEL_ARCH.GEMMA2,
        _gemma2,
        frozenset({"default"}),
        norm_offset=1.0,
        activation="gelu_pytorch_tanh",
        has_windows=True,
        unlike=_gemma2_unlike,
    ),
    "gemma3_text": Family(
        MODEL_ARCH.GEMMA3,
        _gemma3,
        frozenset({"default", "linear"}),
        norm_offset=1.0,
        activation="gelu_pytorch_tanh",
        has_windows=True,
        unlike=_gemma3_unlike,
    ),
    "phi3": Family(MODEL_ARCH.PHI3, _phi3, frozenset({"default", "longrope"}), unlike=_even_heads),
}
"""By the `model_type` of a `config.json`."""


def tensor_name(family: Family, layers: int, source: str) -> str | None:
    """The GGUF name of a checkpoint's tensor; None where llama.cpp has no such tensor in this family."""
    name: str | None = _tensor_names(family.arch, layers).get_name(source, try_suffixes=(".weight", ".bias"))
    if name is not None and name.endswith(".bias") and name.split(".")[-2] not in family.biases:
        return None
    return name


@cache
def _tensor_names(arch: MODEL_ARCH, layers: int) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(arch, layers)


def to_gguf_layout(family: Family, name: str, tensor: Tensor, config: Any) -> Tensor:
    """A checkpoint's tensor, float32, as llama.cpp stores it under a GGUF name."""
    kind = name.split(".")[-2]
    if family.norm_offset and kind.endswith("_norm"):
        return tensor + family.norm_offset
    if family.rotates_neighbours and kind == "attn_q":
        return rope.interleave_halves(tensor, config.num_attention_heads)
    if family.rotates_neighbours and kind == "attn_k":
        return rope.interleave_halves(tensor, config.num_key_value_heads)
    return tensor
