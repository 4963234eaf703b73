"""Llama 3.1's scaling of RoPE frequencies, which GGUF keeps as a tensor of divisors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def llama3_divisors(size: int, rope: dict[str, Any]) -> Tensor:
    """Llama 3.1's divisors of RoPE frequencies: 1 for short wavelengths, `factor` for long ones, interpolated between.

    The Llama 3 Herd of Models (arXiv 2407.21783), as in transformers' `llama3` rotary embedding; in float32 throughout,
    as llama.cpp's converter computes it.
    """
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    wavelengths = 2 * math.pi / frequencies
    factor, context = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = (context / wavelengths - low) / (high - low)
    divisors: Tensor = 1 / ((1 - share) / factor + share)
    divisors[wavelengths < context / high] = 1.0
    divisors[wavelengths > context / low] = factor
    return divisors
