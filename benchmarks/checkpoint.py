"""Checkpoints with the shapes of real models and random weights, which suffice to measure speed.

Weights are normally distributed, like those of an untrained model, so that quantization neither overflows nor rounds
everything to zero; the model's output is noise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_END = "<|endoftext|>"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, named as in `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    head_dim: int = 64
    tie_word_embeddings: bool = True
    model_type: str = "llama"

    def config(self) -> dict[str, Any]:
        """The `config.json` of a checkpoint of this shape."""
        return {
            **vars(self),
            "architectures": [_ARCHITECTURES[self.model_type]],
            "bos_token_id": None,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of each tensor, as Hugging Face checkpoints have them."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for index in range(self.num_hidden_layers):
            layer = f"model.layers.{index}"
            yield f"{layer}.input_layernorm.weight", (hidden,)
            for name, rows in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden)
                if self.model_type == "qwen2":
                    yield f"{layer}.self_attn.{name}_proj.bias", (rows,)
            yield f"{layer}.self_attn.o_proj.weight", (hidden, queries)
            yield f"{layer}.post_attention_layernorm.weight", (hidden,)
            yield f"{layer}.mlp.gate_proj.weight", (inner, hidden)
            yield f"{layer}.mlp.up_proj.weight", (inner, hidden)
            yield f"{layer}.mlp.down_proj.weight", (hidden, inner)
        yield "model.norm.weight", (hidden,)
        if not self.tie_word_embeddings:
            yield "lm_head.weight", (self.vocab_size, hidden)

    def multiplications_per_token(self) -> int:
        """Products that each token of a prompt needs: the weights of all layers, without head and attention."""
        return sum(shape[0] * shape[1] for name, shape in self.tensors() if ".layers." in name and len(shape) == 2)


SHAPES = {
    "tiny": Shape(256, 512, 2, 4, 2, 1024),
    "qwen2.5-0.5b": Shape(896, 4864, 24, 14, 2, 151936, model_type="qwen2"),
    "qwen2.5-1.5b": Shape(1536, 8960, 28, 12, 2, 151936, head_dim=128, model_type="qwen2"),
}


def write_checkpoint(shape: Shape, directory: Path, seed: int = 0, speaks: range | None = None) -> bool:
    """Write a Hugging Face directory in bfloat16, unless it holds this shape already.

    Tensors are drawn and written one after the other, so that memory holds the largest of them and no more.

    Args:
        speaks: The only tokens that the model ever says: the rows of all others are zero in its tied embeddings.

    Returns:
        Whether it was written anew.
    """
    config = shape.config()
    if (directory / "config.json").is_file() and json.loads((directory / "config.json").read_text()) == config:
        return False
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_weights(shape, partial / "model.safetensors", seed, speaks)
    _write_tokenizer(partial)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return True


def _write_weights(shape: Shape, path: Path, seed: int, speaks: range | None) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, size in shape.tensors():
        end = position + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in shape.tensors():
            if name.endswith("norm.weight"):
                values = np.ones(size, np.float32)
            else:
                values = generator.standard_normal(size, np.float32) * np.float32(0.02)
            if speaks is not None and name == "model.embed_tokens.weight":
                values[: speaks.start] = values[speaks.stop :] = 0
            file.write((values.view(np.uint32) >> 16).astype(np.uint16))  # bfloat16: the upper half of a float32


def _write_tokenizer(directory: Path) -> None:
    """A token for each byte and one merge: converters and engines ask for a tokenizer, but no text is ever read."""
    tokens = [_END, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_END])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END, "pad_token": _END}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
