"""What export writers take and engines are held against: a merged random model in fp32, and transformers' logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from random_model import save_base
from transformers import LlamaForCausalLM

Array = npt.NDArray[np.float32]


def save_merged(directory: Path, seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """Save a random Llama in fp32, with weights that no 16-bit type holds exactly, and its tokenizer."""
    save_base(directory, seed, **changes)
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(directory)
    return model


def reference_logits(model: LlamaForCausalLM, ids: Sequence[int]) -> Array:
    """transformers' logits `[len(ids), vocab]`."""
    with torch.no_grad():
        logits: Array = model(torch.tensor([list(ids)])).logits[0].numpy()
    return logits


def random_ids(count: int, vocab: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, vocab, count).tolist()


def relative_error(found: Array, expected: Array) -> float:
    """The largest difference, as a share of the range of what was expected."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.ptp(expected))
