"""Rounding to nearest: how weights are stored that no calibration text is measured for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgereason.export.inputs.merged_weights import Float
from edgereason.export.safetensors_writer import TensorSpec
from edgereason.export.settings import ONE_GROUP, Settings
from edgereason.kernels import cpu
from edgereason.kernels.packing import BLOCK, PANEL, PackedWeight

EMBEDDINGS_AND_HEAD = ("model.embed_tokens", "lm_head")
"""Weights that a 4-bit model stores in 8 bits: rounding them costs most, and few of their bytes are read per token."""


@dataclass(frozen=True)
class Rounding:
    """How weights are stored that come in full precision.

    Attributes:
        bits: 4 or 8 for the linear layers (embeddings and LM head: 8), or 16 for float16 throughout.
        group_size: Inputs that share a scale, a multiple of 32; None for one scale per output.
        symmetric: Whether zero points are in the middle; those of embeddings and LM head always are.
    """

    bits: int = 4
    group_size: int | None = 32
    symmetric: bool = True

    @classmethod
    def of_settings(cls, settings: Settings) -> Rounding:
        """How an export stores the weights that GPTQ does not round."""
        size = None if settings.group_size == ONE_GROUP else settings.group_size
        return cls(settings.bits, size, settings.symmetric)

    def of(self, stem: str) -> Rounding:
        """What holds for one weight, by its name without `.weight`."""
        return Rounding(8, self.group_size) if stem in EMBEDDINGS_AND_HEAD and self.bits == 4 else self

    def quantize(self, weight: Float) -> PackedWeight:
        """A weight `[N, K]` in 4 or 8 bits."""
        return cpu.quantize(weight, self.bits, self.group_size, self.symmetric)

    def specs(self, rows: int, columns: int) -> dict[str, TensorSpec]:
        """Type and shape of each part of a packed weight, known before it is rounded."""
        size = -(-columns // BLOCK) * BLOCK if self.group_size is None else self.group_size
        panels, groups = -(-rows // PANEL), -(-columns // size)
        scales = (panels, groups, PANEL)
        specs: dict[str, TensorSpec] = {
            "qweight": (np.uint8, (panels, groups * size // BLOCK, 64 * self.bits)),
            "scales": (np.float16, scales),
        }
        return specs if self.symmetric else {**specs, "zeros": (np.uint8, scales)}
