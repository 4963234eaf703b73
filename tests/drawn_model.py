"""A model of Qwen2.5-0.5B's shape whose weights are drawn so that rounding them is as hard as rounding trained ones.

Independent Gaussian weights are a poor witness for quantization: no input matters more than another, and nothing can be
gained by looking at them. What trained models have is put in here: what layers write and read lies mostly along the
same directions, whose share falls by a power law; rows have scales of their own; a few channels are many times as large
as the others (LLM.int8(), arXiv 2208.07339, section 4); and a few next tokens are probable.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import torch
from places import WORD_PROBLEMS
from torch import Tensor
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

HIDDEN = 896
_DECAY = 0.3  # the i-th direction has i^-0.3 of the first one's magnitude
_SPREAD = 0.3  # of the logarithms of scales
_LARGE_CHANNELS, _LARGE = 4, 8.0
_LOGITS = 2.0  # their standard deviation, about


def save_drawn(directory: Path, layers: int = 24, seed: int = 0) -> None:
    """Save it in bfloat16 with the tokenizer of the example; with 24 layers it has 494 million parameters."""
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=HIDDEN,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_theta=1e6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config).bfloat16()
    draw = _Draw(layers, seed)
    state = {name: draw(name, tensor.shape).bfloat16() for name, tensor in model.named_parameters()}
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.save_pretrained(directory)
    for file in (WORD_PROBLEMS / "base").glob("tokenizer*"):
        shutil.copy(file, directory)
    # For a Qwen2 model transformers cuts text into words as Qwen2 does, whatever the file says: now the file says so.
    AutoTokenizer.from_pretrained(directory).save_pretrained(directory)


class _Draw:
    """Draws tensors by their names."""

    def __init__(self, layers: int, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._write = 1 / math.sqrt(layers)  # so that all layers together write as much whatever their number
        directions, _ = torch.linalg.qr(self._normal(HIDDEN, HIDDEN))
        magnitudes = torch.arange(1, HIDDEN + 1) ** -_DECAY
        # [hidden, hidden]; white vectors keep their variance
        self._directions = (magnitudes / magnitudes.square().mean().sqrt())[:, None] * directions
        self._large = torch.randperm(HIDDEN, generator=self._random)[:_LARGE_CHANNELS]

    def __call__(self, name: str, shape: torch.Size) -> Tensor:
        if name == "model.norm.weight":
            return _LOGITS * self._scales(*shape)
        if len(shape) == 1:
            return self._scales(*shape) if "norm" in name else 0.1 * self._normal(*shape)
        rows, columns = shape
        drawn = self._normal(rows, columns) * self._scales(rows, 1) / math.sqrt(columns)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return self._write * (self._directions.T @ drawn)
        drawn = drawn @ self._directions
        if name == "model.embed_tokens.weight":
            drawn[:, self._large] *= _LARGE
        return drawn

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def _scales(self, *shape: int) -> Tensor:
        return torch.exp(_SPREAD * self._normal(*shape))
