"""Rounding to nearest: how weights are stored that no calibration text is measured for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgereason.errors import ExportError
from edgereason.export.inputs.merged_weights import Float
from edgereason.export.safetensors_writer import TensorSpec
from edgereason.export.settings import ONE_GROUP, Settings
from edgereason.kernels import cpu
from edgereason.kernels.packing import BLOCK, PANEL, BFloat16, PackedWeight

EMBEDDINGS_AND_HEAD = ("model.embed_tokens", "lm_head")
"""Weights that a 4-bit model stores in 8 bits: rounding them costs most, and few of their bytes are read per token."""


def check_scales(scales: npt.NDArray[np.float16], weight: Float, bits: int, name: str) -> None:
    """Make sure that a quantized weight has the scales that its values need: they are stored in float16.

    A group of very small values rounds to zero, as single values do. A weight of nothing but such groups would be lost.

    Args:
        scales: Of all groups; more of them may be zero, where panels are filled.
        weight: What was quantized.
        bits: 4 or 8.
        name: The weight's name.

    Raises:
        ExportError: float16 cannot hold the scales.
    """
    if scales.all() and np.isfinite(scales).all():
        return
    largest = _largest(weight)
    if not np.isfinite(scales).all() or largest > _LARGEST_SCALE * (1 << (bits - 1)):
        raise ExportError(f"{name} has values up to {largest:.3g}: float16 cannot hold scales for {bits} bits.", _CURE)
    if largest > 0 and not scales.any():
        raise ExportError(f"{name} has no value beyond {largest:.3g}: in {bits} bits all would be zero.", _CURE)


_LARGEST_SCALE = float(np.finfo(np.float16).max)
_CURE = "Check the base and the adapter, or export with --format onnx --bits 32."


def _largest(weight: Float) -> float:
    """The largest magnitude of a weight's values."""
    if isinstance(weight, BFloat16):  # without their signs, the bits are in the order of the numbers
        return float(BFloat16((weight.bits & 0x7FFF).max(keepdims=True)).to_float32().max())
    return float(max(weight.max(), -weight.min()))


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

    def quantize(self, weight: Float, name: str) -> PackedWeight:
        """A weight `[N, K]` in 4 or 8 bits; `name` is for messages.

        Raises:
            ValueError: a value is not finite.
            ExportError: float16 cannot hold the scales.
        """
        packed = cpu.quantize(weight, self.bits, self.group_size, self.symmetric)
        check_scales(packed.scales, weight, self.bits, name)
        return packed

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
