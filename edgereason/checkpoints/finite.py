"""Whether weights are finite, at the rate at which they are read."""

from __future__ import annotations

import numpy as np

from edgereason.checkpoints.weights import FloatWeight
from edgereason.kernels.packing import BFloat16

_EXPONENT = np.uint16(0x7F80)
"""The exponent bits of bfloat16; all of them set mean infinity or NaN."""


def is_finite(array: FloatWeight) -> bool:
    """Whether all values of an array of 16 or 32 bits are finite; arrays of integers are."""
    if isinstance(array, BFloat16):
        return not bool(((array.bits & _EXPONENT) == _EXPONENT).any())
    if array.dtype != np.float32:
        return bool(np.isfinite(array).all())
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = flat @ flat  # one read; infinite or NaN if a value is, or beyond 1e19
    return bool(np.isfinite(squares)) or bool(np.isfinite(flat).all())
