"""Round-to-nearest quantization of a weight to 4 or 8 bits; `src/rounding/rounding.h` defines it to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import _cpu
from edgereason.kernels.packing import BLOCK, PANEL, BFloat16, PackedWeight

Float = npt.NDArray[np.float32] | npt.NDArray[np.float16] | BFloat16

# Clipping the largest weights of a group shrinks its range, so that all others are rounded less: these fractions of the
# range are tried.
RANGES = {4: np.linspace(0.76, 1.06, 11, dtype=np.float32), 8: np.ones(1, np.float32)}


def quantize(weight: Float, bits: int, group_size: int | None = 32, symmetric: bool = True) -> PackedWeight:
    """Quantize a weight by rounding to the nearest of `2**bits` levels per group.

    The range of 4 bits is searched for the minimum squared error; that of 8 bits is the weights' own. The result is the
    same, bit for bit, with every instruction set and number of threads.

    Args:
        weight: `[N, K]`, finite, float32 or what becomes float32 as it is; rows may lie apart.
        bits: 4 or 8.
        group_size: Inputs per scale, a multiple of 32; None for one scale per output row.
        symmetric: Zero point in the middle; otherwise each group has its own.

    Raises:
        ValueError: an argument out of its range.
    """
    array: npt.NDArray[Any] = weight.bits if isinstance(weight, BFloat16) else weight
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"weight has to be [N, K], not {list(array.shape)}")
    if bits not in RANGES:
        raise ValueError(f"bits has to be 4 or 8, not {bits}")
    rows, columns = array.shape
    size = -(-columns // BLOCK) * BLOCK if group_size is None else group_size
    if size < BLOCK or size % BLOCK:
        raise ValueError(f"group_size has to be a multiple of {BLOCK}, not {group_size}")
    if array.strides[1] != array.itemsize or array.strides[0] < 0:
        array = np.ascontiguousarray(array)
    panels, groups = -(-rows // PANEL), -(-columns // size)
    qweight = np.empty((panels, groups * size // BLOCK, 64 * bits), np.uint8)
    scales = np.empty((panels, groups, PANEL), np.float16)
    zeros = None if symmetric else np.empty((panels, groups, PANEL), np.uint8)
    if not _cpu.round(array, size, bits, RANGES[bits], qweight, scales, zeros):
        raise ValueError("weight has values that are not finite")
    return PackedWeight(qweight, scales, zeros, rows, columns, bits)
