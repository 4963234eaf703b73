"""Weights as AutoGPTQ and GPTQModel store them (GPTQ, arXiv 2210.17323), brought into the order of our kernels.

A linear layer of K inputs and N outputs in G groups is four tensors:

    qweight  int32 [K * bits / 32, N]   a word holds 32 / bits neighbouring inputs of one output, the first one lowest
    qzeros   int32 [G, N * bits / 32]   zero points, neighbouring outputs in a word; in the format "gptq" (v1) minus one
    scales   float [G, N]
    g_idx    int32 [K]                  the group of each input

    w[n, k] = scales[g_idx[k], n] * (q[k, n] - zeros[g_idx[k], n])

With act-order (`desc_act`) the members of a group lie anywhere. They are brought together here, which permutes the
inputs: `PackedWeight.order`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError
from edgereason.kernels import packing
from edgereason.kernels.packing import BLOCK, PackedWeight

Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GptqFormat:
    """What a checkpoint's `quantization_config` (or `quantize_config.json`) says of its weights.

    How many bits and groups each layer has stands in the shapes of its tensors, since they may differ by layer.
    """

    group_size: int | None
    """Inputs per group; None for one group."""
    zeros_minus_one: bool
    """Zero points are stored minus one (v1)."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> GptqFormat:
        """Raises `BundleError` where the weights are quantized in a way that is not covered; `source` is the file."""
        method = values.get("quant_method", values.get("method", "gptq"))
        if method != "gptq":
            raise BundleError(
                f"{source} says that the weights are quantized with {method}, which is not covered.",
                "Give a GPTQ checkpoint, or the model that it was made from, in 16 or 32 bits.",
            )
        version = values.get("checkpoint_format", values.get("format", "gptq"))
        if version not in ("gptq", "gptq_v2"):
            raise BundleError(f"{source}: checkpoint_format {version!r} is not known.", "Known: gptq, gptq_v2.")
        size = values.get("group_size", -1)
        if type(size) is not int or (size != -1 and (size < BLOCK or size % BLOCK)):
            raise BundleError(f"{source}: group_size is {size!r}, it has to be -1 or a multiple of {BLOCK}.")
        return cls(None if size == -1 else size, version == "gptq")


def unpack(
    format: GptqFormat, qweight: Int32, qzeros: Int32, scales: Float32, g_idx: Int32 | None, columns: int
) -> PackedWeight:
    """A layer's weight, from its tensors.

    Args:
        format: The checkpoint's.
        qweight, qzeros, scales, g_idx: As the module's text says; `g_idx` is None in checkpoints that have none.
        columns: K.

    Raises:
        ValueError: shapes that do not fit each other, or values that no quantizer writes.
    """
    bits = 32 * qweight.shape[0] // columns if qweight.ndim == 2 else 0
    if bits not in (4, 8) or qweight.shape[0] * 32 != bits * columns:
        raise ValueError(f"qweight {list(qweight.shape)} is not of 4 or 8 bits for {columns} inputs")
    rows = qweight.shape[1]
    groups = len(scales)
    if scales.shape != (groups, rows) or qzeros.shape != (groups, rows * bits // 32) or rows * bits % 32 or not groups:
        raise ValueError(f"scales {list(scales.shape)} and qzeros {list(qzeros.shape)} do not fit {rows} outputs")
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError("scales are not finite, or beyond float16")
    values = _values(np.ascontiguousarray(qweight.T), bits)  # [N, K]
    zeros = _zeros(qzeros, bits, format.zeros_minus_one)
    symmetric = bool((zeros == 1 << (bits - 1)).all())
    transposed = None if symmetric else np.ascontiguousarray(zeros.T)
    return arrange(values, np.ascontiguousarray(half.T), transposed, g_idx, format.group_size, bits)


def arrange(
    q: UInt8, scales: Float16, zeros: UInt8 | None, g_idx: Int32 | None, group_size: int | None, bits: int
) -> PackedWeight:
    """Bring quantized values whose groups lie anywhere into the order of our kernels.

    Args:
        q: uint8 `[N, K]`, below `2**bits`.
        scales: float16 `[N, G]`.
        zeros: uint8 `[N, G]`, or None for the middle value.
        g_idx: int32 `[K]`: each input's group; None where groups follow each other.
        group_size: Inputs of a group; None for one group.
        bits: 4 or 8.

    Raises:
        ValueError: shapes that do not fit each other, or groups of different sizes.
    """
    rows, columns = q.shape
    groups = scales.shape[1]
    order, size = _grouping(g_idx, groups, columns, group_size)
    # One byte per weight: the largest array of the whole work, so it is permuted and padded in one copy.
    padded = np.zeros((rows, groups * size), np.uint8)
    padded[:, :columns] = q if order is None else q[:, order]
    return replace(packing.pack(padded, scales, zeros, bits, columns), order=order)


def _grouping(g_idx: Int32 | None, groups: int, columns: int, group_size: int | None) -> tuple[Int32 | None, int]:
    """The order of the inputs that makes groups contiguous (None: as they are), and the stored size of a group."""
    size = columns if groups == 1 else group_size or 0
    # Some tools leave g_idx zero where groups follow each other.
    if g_idx is None or (groups > 1 and not g_idx.any()):
        g_idx = (np.arange(columns) // max(size, 1)).astype(np.int32)
    if g_idx.shape != (columns,) or g_idx.min(initial=0) < 0 or g_idx.max(initial=0) >= groups:
        raise ValueError(f"g_idx {list(g_idx.shape)} does not place {columns} inputs in {groups} groups")
    counts = np.bincount(g_idx, minlength=groups)
    size = int(counts[0])
    if (counts[:-1] != size).any() or not 0 < counts[-1] <= size or (groups > 1 and size % BLOCK):
        raise ValueError(f"g_idx makes groups of {counts.min()} to {counts.max()} inputs")
    order = np.argsort(g_idx, kind="stable").astype(np.int32)
    return None if (np.diff(g_idx) >= 0).all() else order, -(-size // BLOCK) * BLOCK


def _zeros(qzeros: Int32, bits: int, minus_one: bool) -> UInt8:
    """Zero points, uint8 `[G, N]`."""
    words = qzeros.view(np.uint32)
    if minus_one:
        # Words as a whole, since that is how one was subtracted: a zero point of 0 has borrowed from its neighbour.
        words = words + np.uint32(0x11111111 if bits == 4 else 0x01010101)
    return _values(np.ascontiguousarray(words), bits)


def _values(words: npt.NDArray[Any], bits: int) -> UInt8:
    """The values in 32-bit words `[A, B]`, lowest first: uint8 `[A, B * 32 / bits]`."""
    octets = words.astype("<u4", copy=False).view(np.uint8)
    if bits == 8:
        return octets
    values = np.empty((*octets.shape, 2), np.uint8)
    np.bitwise_and(octets, 15, out=values[..., 0])
    np.right_shift(octets, 4, out=values[..., 1])
    return values.reshape(len(octets), -1)
