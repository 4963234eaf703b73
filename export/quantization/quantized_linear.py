"""A quantized linear layer as every writer takes it: native, GPTQ and ONNX weights differ only in their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints import gptq_format
from edgereason.kernels import packing
from edgereason.kernels.packing import PackedWeight

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedLinear:
    """A weight `[N, K]` in G groups of inputs: `w[n, k] = scales[n, g_idx[k]] * (q[n, k] - zeros[n, g_idx[k]])`.

    Attributes:
        q: uint8 `[N, K]`, below `2**bits`, inputs in the model's order.
        scales: float16 `[N, G]`.
        zeros: uint8 `[N, G]`; None for the middle, `2**(bits - 1)`.
        g_idx: int32 `[K]`: the group of each input.
        group_size: Inputs of a group; the last one may have fewer.
        bits: 4 or 8.
    """

    q: UInt8
    scales: Float16
    zeros: UInt8 | None
    g_idx: Int32
    group_size: int
    bits: int

    @classmethod
    def from_packed(cls, weight: PackedWeight) -> QuantizedLinear:
        """The weight that lies in the kernels' order."""
        q, scales, zeros = packing.unpack(weight)
        place = np.arange(weight.columns) if weight.order is None else np.argsort(weight.order)
        size = min(weight.group_size, weight.columns)
        return cls(
            np.ascontiguousarray(q[:, place]), scales, zeros, (place // size).astype(np.int32), size, weight.bits
        )

    @property
    def rows(self) -> int:
        return len(self.q)

    @property
    def columns(self) -> int:
        return int(self.q.shape[1])

    @property
    def ordered(self) -> bool:
        """Whether the inputs of each group are contiguous."""
        return bool((np.diff(self.g_idx) >= 0).all())

    @property
    def zero_points(self) -> UInt8:
        """Zero points, uint8 `[N, G]`; of symmetric weights the middle value."""
        return np.full(self.scales.shape, 1 << (self.bits - 1), np.uint8) if self.zeros is None else self.zeros

    def split(self, rows: list[int]) -> list[QuantizedLinear]:
        """The weights of several layers that were quantized as one, by their numbers of rows."""
        ends = np.cumsum(rows)[:-1]
        q, scales = np.split(self.q, ends), np.split(self.scales, ends)
        zeros = [None] * len(rows) if self.zeros is None else np.split(self.zeros, ends)
        return [
            QuantizedLinear(*parts, self.g_idx, self.group_size, self.bits)
            for parts in zip(q, scales, zeros, strict=True)
        ]

    def dequantize(self) -> Float32:
        """The weight, float32 `[N, K]`."""
        scales, zeros = self.scales.astype(np.float32), self.zero_points.astype(np.float32)
        return scales[:, self.g_idx] * (self.q - zeros[:, self.g_idx])

    def to_packed(self) -> PackedWeight:
        """The weight in the kernels' order."""
        return gptq_format.arrange(self.q, self.scales, self.zeros, self.g_idx, self.group_size, self.bits)
