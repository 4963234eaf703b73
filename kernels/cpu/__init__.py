"""The operations of a transformer on numpy arrays, for CPUs.

Every function checks its arguments (TypeError for a wrong type, ValueError for a shape that does not fit, both naming
the argument) and computes without the interpreter's lock, on one pool of threads that the process shares. Arrays are
float32 and row-major; T is a number of rows, one per token, and may be zero. The instruction set is chosen at first
use; the environment variable `EDGEREASON_ISA` names another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import _cpu
from edgereason.kernels.cpu._cpu import KVCache, Weight
from edgereason.kernels.cpu.adapters import LoraPart, attach, detach
from edgereason.kernels.cpu.rows import NO_ADAPTER, Rows, Segment
from edgereason.kernels.packing import BFloat16, PackedWeight

__all__ = [
    "NO_ADAPTER",
    "KVCache",
    "LoraPart",
    "Rows",
    "Segment",
    "Weight",
    "attach",
    "attention",
    "cpu_features",
    "detach",
    "embedding",
    "isa",
    "isas",
    "linear",
    "prepare",
    "rms_norm",
    "rope",
    "set_threads",
    "swiglu",
    "threads",
    "use_isa",
]

Float32 = npt.NDArray[np.float32]


def prepare(weight: PackedWeight | BFloat16 | npt.NDArray[Any]) -> Weight:
    """A weight `[N, K]` (packed, float32, float16 or bfloat16) for `linear` and `embedding`, checked once.

    It borrows the arrays: nothing is copied.
    Packed weights are multiplied with activations that are quantized to 8 bits per row and group of 32; float weights
    with float32 activations.
    """
    if isinstance(weight, PackedWeight):
        return Weight(weight.qweight, weight.scales, weight.zeros, weight.rows, weight.columns, weight.bits)
    if isinstance(weight, BFloat16):
        return Weight.bfloat16(weight.bits)
    if isinstance(weight, np.ndarray) and weight.dtype == np.float16:
        return Weight.float16(weight)
    return Weight.float32(weight)


def linear(x: Float32, weight: Weight, rows: Rows | None = None, add: Float32 | None = None) -> Float32:
    """`x [T, K]` times the transpose of `weight [N, K]`, plus `add [T, N]`: float32 `[T, N]`.

    Where a row of `rows` has an adapter that is attached to this weight, `s (x A^T) B^T` is added to its result.
    """
    y = np.empty((_rows(x, "x"), weight.rows), np.float32)
    _cpu.linear(x, weight, None if rows is None else rows.native, add, y)
    return y


def embedding(ids: npt.NDArray[np.int64], weight: Weight) -> Float32:
    """Rows `ids [T]` (int64) of `weight [N, K]`: float32 `[T, K]`."""
    y = np.empty((_rows(ids, "ids"), weight.columns), np.float32)
    _cpu.embedding(ids, weight, y)
    return y


def rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """`x / sqrt(mean(x^2) + eps) * weight` over the rows of `x [T, K]` (arXiv 1910.07467): float32 `[T, K]`."""
    y = np.empty((_rows(x, "x"), weight.shape[0]), np.float32)
    _cpu.rms_norm(x, weight, eps, y)
    return y


def rope(x: Float32, cos: Float32, sin: Float32) -> None:
    """Rotate `x [T, heads, d]` in place by angles whose cosine and sine are `[T, d / 2]` (RoFormer, arXiv 2104.09864).

    Element i of a head's first half rotates with element i of its second half. Rows of `x` may lie apart.
    """
    _cpu.rope(x, cos, sin)


def swiglu(gate_up: Float32) -> Float32:
    """`silu(gate) * up` of `gate_up [T, 2 I]`, gate first (arXiv 2002.05202): float32 `[T, I]`."""
    y = np.empty((_rows(gate_up, "gate_up"), gate_up.shape[-1] // 2), np.float32)
    _cpu.swiglu(gate_up, y)
    return y


def attention(q: Float32, k: Float32, v: Float32, layer: int, rows: Rows, scale: float | None = None) -> Float32:
    """Append keys and values to the rows' caches; attend to all keys up to each row's own: float32 `[T, heads * d]`.

    Args:
        q: `[T, heads, d]`; queries h * g .. h * g + g - 1 share KV head h (grouped-query attention, arXiv 2305.13245).
            Rows may lie apart, here and below.
        k: `[T, kv_heads, d]`.
        v: `[T, kv_heads, d]`.
        layer: Which of the caches' layers to use.
        rows: The sequence of each row. A sequence's rows see those before them and what its cache holds, nothing else.
        scale: Of the scores; `1 / sqrt(d)` when None.
    """
    count, heads, head_dim = q.shape if isinstance(q, np.ndarray) and q.ndim == 3 else _refuse(q)
    y = np.empty((count, heads, head_dim), np.float32)
    _cpu.attention(q, k, v, layer, rows.native, 1 / math.sqrt(head_dim) if scale is None else scale, y)
    return y.reshape(count, heads * head_dim)


def isa() -> str:
    """The instruction set in use, such as `avx512vnni`.

    Raises:
        ValueError: `EDGEREASON_ISA` names one that this machine lacks.
    """
    return _cpu.isa()


def isas() -> list[str]:
    """The instruction sets that can be used on this machine, best first."""
    return _cpu.isas()


def use_isa(name: str | None) -> None:
    """Use another instruction set from now on, in the whole process; None goes back to the default.

    Raises:
        ValueError: this machine lacks it.
    """
    _cpu.use_isa(name or "")


def cpu_features() -> list[str]:
    """What the CPU has and the operating system allows, of the features that matter to kernels."""
    return _cpu.cpu_features()


def threads() -> int:
    """How many threads compute, the calling one included."""
    return _cpu.threads()


def set_threads(count: int | None) -> None:
    """Compute with `count` threads; None: as many as there are cores that the process may run on."""
    _cpu.set_threads(_DEFAULT_THREADS if count is None else count)


_DEFAULT_THREADS = _cpu.threads()


def _rows(array: npt.NDArray[np.generic], name: str) -> int:
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise TypeError(f"{name} has to be an array")
    return len(array)


def _refuse(q: object) -> tuple[int, int, int]:
    raise ValueError(f"q has to be an array [T, heads, d], not {getattr(q, 'shape', type(q).__name__)}")
