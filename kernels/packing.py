"""Quantized weights and the order in which they are stored, in numpy.

A weight `[N, K]` is stored in blocks of 16 output rows by 32 inputs, in the order in which dot-product instructions
read them (`kernels/cpu/src/kernels.h`):

    qweight  uint8    [N/16, K/32, 64 * bits]   4 bits: byte 4r + j of the i-th 64 bytes holds input 8i + j of row r in
                                                its low nibble and input 8i + 4 + j in its high one
                                                8 bits: byte 4r + j of the i-th 64 bytes holds input 4i + j of row r
    scales   float16  [N/16, K/G, 16]
    zeros    uint8    [N/16, K/G, 16]           absent: 8 for 4 bits, 128 for 8 bits
    order    int32    [K]                       absent: the stored input k is the model's input k, else its order[k]

    w[n, k] = scales[n, k // G] * (q[n, k] - zeros[n, k // G])

N is padded to a multiple of 16 and K to a multiple of the group size G with weights of value zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

PANEL = 16
BLOCK = 32

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class PackedWeight:
    """A quantized weight of `rows` outputs by `columns` inputs, stored as the module's text says.

    `zeros` is None for a symmetric weight, `order` where inputs are stored as the model has them (it is a permutation
    otherwise, which brings the members of a group together). The arrays may be memory maps.
    """

    qweight: UInt8
    scales: Float16
    zeros: UInt8 | None
    rows: int
    columns: int
    bits: int
    order: Int32 | None = None

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return int(self.qweight.shape[1] * BLOCK // self.scales.shape[1])

    @property
    def nbytes(self) -> int:
        return self.qweight.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    def dequantize(self) -> Float32:
        """The weight as float32 `[rows, columns]`."""
        q, scales, zeros = unpack(self)
        origin = float(_middle(self.bits)) if zeros is None else _per_column(zeros.astype(np.float32), q.shape[1])
        w = _per_column(scales.astype(np.float32), q.shape[1]) * (q - origin)
        w = w[:, : self.columns]
        if self.order is not None:
            w = w[:, np.argsort(self.order)]
        return np.ascontiguousarray(w, np.float32)


@dataclass(frozen=True)
class BFloat16:
    """A bfloat16 array, which numpy has no type for: `bits` are the upper halves of float32 values, uint16."""

    bits: npt.NDArray[np.uint16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def to_float32(self) -> Float32:
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


def pack(q: UInt8, scales: Float16, zeros: UInt8 | None, bits: int, columns: int | None = None) -> PackedWeight:
    """Bring quantized values into the stored order.

    Args:
        q: uint8 `[N, K]`, below `2**bits`; K a multiple of 32 and of the number of groups.
        scales: float16 `[N, K/G]`.
        zeros: uint8 `[N, K/G]`, or None for the middle value.
        bits: 4 or 8.
        columns: How many of the K inputs the model has, where the rest is padding.

    Raises:
        ValueError: shapes that do not fit each other, or values beyond the bits.
    """
    rows, padded = q.shape
    groups = scales.shape[1] if scales.ndim == 2 else 0
    if padded % BLOCK or groups == 0 or padded % groups or padded // groups % BLOCK or len(scales) != rows:
        raise ValueError(f"scales {list(scales.shape)} do not fit q {list(q.shape)}")
    if zeros is not None and zeros.shape != scales.shape:
        raise ValueError(f"zeros {list(zeros.shape)} do not fit scales {list(scales.shape)}")
    if bits not in (4, 8) or q.max(initial=0) >> bits:
        raise ValueError(f"q has values beyond {bits} bits")
    # A padded row has scale zero, whatever its values.
    fill = _padded(rows, PANEL) - rows
    lines = (
        _pad(q.astype(np.uint8, copy=False), fill, 0).reshape(-1, PANEL, padded // BLOCK, 8, 4).transpose(0, 2, 3, 1, 4)
    )
    # lines: [panel, block, line of 4 inputs, row, input]
    qweight = lines if bits == 8 else lines[:, :, 0::2] | lines[:, :, 1::2] << 4
    return PackedWeight(
        np.ascontiguousarray(qweight).reshape(len(lines), padded // BLOCK, 64 * bits),
        _to_panels(_pad(scales.astype(np.float16, copy=False), fill, 0)),
        None if zeros is None else _to_panels(_pad(zeros.astype(np.uint8, copy=False), fill, 0)),
        rows,
        padded if columns is None else columns,
        bits,
    )


def unpack(weight: PackedWeight) -> tuple[UInt8, Float16, UInt8 | None]:
    """The inverse of `pack`: q `[N, K padded]`, scales and zeros `[N, K/G]`."""
    panels, blocks, _ = weight.qweight.shape
    if weight.bits == 8:
        lines = weight.qweight.reshape(panels, blocks, 8, PANEL, 4)
    else:
        nibbles = weight.qweight.reshape(panels, blocks, 4, 1, PANEL, 4)
        lines = np.concatenate([nibbles & 15, nibbles >> 4], axis=3).reshape(panels, blocks, 8, PANEL, 4)
    q = lines.transpose(0, 3, 1, 2, 4).reshape(panels * PANEL, blocks * BLOCK)[: weight.rows]
    zeros = None if weight.zeros is None else _from_panels(weight.zeros)[: weight.rows]
    return np.ascontiguousarray(q), _from_panels(weight.scales)[: weight.rows], zeros


def concatenate(weights: Sequence[PackedWeight]) -> PackedWeight:
    """One weight of all the rows of several, in order: q, k and v of one input become one product.

    Raises:
        ValueError: the weights differ in columns, bits, group size, symmetry or order.
    """
    first = weights[0]
    if not all(alike(weight, first) for weight in weights):
        raise ValueError("the weights differ in columns, bits, group size, symmetry or order")
    rows = sum(weight.rows for weight in weights)
    if all(weight.rows % PANEL == 0 for weight in weights):
        zeros = [weight.zeros for weight in weights if weight.zeros is not None]
        return replace(
            first,
            qweight=np.concatenate([weight.qweight for weight in weights]),
            scales=np.concatenate([weight.scales for weight in weights]),
            zeros=np.concatenate(zeros) if zeros else None,
            rows=rows,
        )
    q, scales, zero_parts = zip(*map(unpack, weights), strict=True)
    stacked = None if first.zeros is None else np.concatenate([part for part in zero_parts if part is not None])
    packed = pack(np.concatenate(q), np.concatenate(scales), stacked, first.bits, first.columns)
    return replace(packed, order=first.order)


def alike(a: PackedWeight, b: PackedWeight) -> bool:
    """Whether two weights can be concatenated."""
    if a.order is None or b.order is None:
        return _kind(a) == _kind(b) and a.order is b.order
    return _kind(a) == _kind(b) and np.array_equal(a.order, b.order)


def _kind(weight: PackedWeight) -> tuple[int, int, int, bool]:
    return weight.columns, weight.bits, weight.group_size, weight.zeros is None


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _pad(values: npt.NDArray[_T], rows: int, columns: int) -> npt.NDArray[_T]:
    """More rows and columns of zeros; the array itself where there are none to add."""
    return np.pad(values, ((0, rows), (0, columns))) if rows or columns else values


def _middle(bits: int) -> int:
    return 1 << (bits - 1)


def _per_column(groups: Float32, columns: int) -> Float32:
    return np.repeat(groups, columns // groups.shape[1], axis=1)


def _to_panels(values: npt.NDArray[_T]) -> npt.NDArray[_T]:
    return np.ascontiguousarray(values.reshape(-1, PANEL, values.shape[1]).transpose(0, 2, 1))


def _from_panels(values: npt.NDArray[_T]) -> npt.NDArray[_T]:
    return np.ascontiguousarray(values.transpose(0, 2, 1)).reshape(-1, values.shape[1])
