"""The operations of a transformer on numpy arrays, for CPUs.

Every function checks its arguments (TypeError for a wrong type, ValueError for a shape that does not fit, both naming
the argument) and computes without the interpreter's lock, on one pool of threads that the process shares. Arrays are
float32 and row-major; T is a number of rows, one per token, and may be zero. The instruction set is chosen at first
use; the environment variable `EDGEREASON_ISA` names another.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import _cpu, profile
from edgereason.kernels.cpu._cpu import KVCache, Weight
from edgereason.kernels.cpu.adapters import LoraPart, attach, detach
from edgereason.kernels.cpu.recording import Recorder, empty
from edgereason.kernels.cpu.rounding import quantize
from edgereason.kernels.cpu.rows import NO_ADAPTER, Rows, Segment
from edgereason.kernels.packing import BFloat16, PackedWeight

__all__ = [
    "NO_ADAPTER",
    "KVCache",
    "LoraPart",
    "Recorder",
    "Rows",
    "Segment",
    "Weight",
    "attach",
    "attention",
    "build",
    "cpu_features",
    "detach",
    "embedding",
    "geglu",
    "head_norm",
    "isa",
    "isas",
    "linear",
    "prepare",
    "profile",
    "quantize",
    "rms_norm",
    "rope",
    "set_threads",
    "softcap",
    "softmax_mass",
    "spans",
    "swiglu",
    "threads",
    "top",
    "use_isa",
    "use_spans",
]

Float32 = npt.NDArray[np.float32]
Stored = PackedWeight | BFloat16 | npt.NDArray[Any]
Prepared = Weight | tuple[Weight, ...]


def prepare(weight: Stored | tuple[Stored, ...], bias: Float32 | None = None) -> Prepared:
    """A weight `[N, K]` (packed, float32, float16 or bfloat16) for `linear` and `embedding`, checked once.

    It borrows the arrays: nothing is copied. Several weights are one whose rows are theirs, one after the other, for
    `linear` alone: each is a product of its own. A `bias [N]` is added to every product.
    Packed weights are multiplied with activations that are quantized to 8 bits per row and group of 32 (see `spans` for
    many rows); float weights with float32 activations.
    """
    if isinstance(weight, tuple):
        ends = np.cumsum([part.rows if isinstance(part, PackedWeight) else part.shape[0] for part in weight])
        biases = [None] * len(weight) if bias is None else np.split(bias, ends[:-1])
        return tuple(_prepare(part, part_bias) for part, part_bias in zip(weight, biases, strict=True))
    return _prepare(weight, bias)


def _prepare(weight: Stored, bias: Float32 | None) -> Weight:
    if isinstance(weight, PackedWeight):
        stored = (weight.qweight, weight.scales, weight.zeros, weight.rows, weight.columns, weight.bits)
        return Weight(*stored, weight.order, bias)
    if isinstance(weight, BFloat16):
        return Weight.bfloat16(weight.bits, bias)
    if isinstance(weight, np.ndarray) and weight.dtype == np.float16:
        return Weight.float16(weight, bias)
    return Weight.float32(weight, bias)


def linear(x: Float32, weight: Prepared, rows: Rows | None = None, add: Float32 | None = None) -> Float32:
    """`x [T, K]` times the transpose of `weight [N, K]`, plus its bias and `add [T, N]`: float32 `[T, N]`.

    Where a row of `rows` has an adapter that is attached to this weight, `s (x A^T) B^T` is added to its result.
    """
    if isinstance(weight, tuple):
        y = np.concatenate([linear(x, part, rows) for part in weight], axis=1)
        return y if add is None else y + add
    y = empty(_rows(x, "x"), weight.rows)
    _cpu.linear(x, weight, None if rows is None else rows.native, add, y)
    return y


def embedding(ids: npt.NDArray[np.int64], weight: Weight) -> Float32:
    """Rows `ids [T]` (int64) of `weight [N, K]`: float32 `[T, K]`."""
    y = empty(_rows(ids, "ids"), weight.columns)
    _cpu.embedding(ids, weight, y)
    return y


def rms_norm(x: Float32, weight: Float32, eps: float) -> Float32:
    """`x / sqrt(mean(x^2) + eps) * weight` over the rows of `x [T, K]` (arXiv 1910.07467): float32 `[T, K]`."""
    y = empty(_rows(x, "x"), weight.shape[0])
    _cpu.rms_norm(x, weight, eps, y)
    return y


def rope(x: Float32, cos: Float32, sin: Float32) -> None:
    """Rotary embedding of `x [T, heads, d]`, in place, with `cos` and `sin [T, R / 2]` (RoFormer, arXiv 2104.09864).

    Of a head's first R elements, element i of the first half rotates with element i of the second half; those behind
    them stay. Rows of `x` may lie apart.
    """
    _cpu.rope(x, cos, sin)


def head_norm(x: Float32, weight: Float32, eps: float) -> None:
    """`rms_norm` of every head of `x [T, heads, d]`, in place, with `weight [d]`. Rows of `x` may lie apart."""
    _cpu.head_norm(x, weight, eps)


def softcap(x: Float32, cap: float) -> None:
    """`cap tanh(x / cap)` of `x [T, N]`, in place (Gemma 2, arXiv 2408.00118)."""
    _cpu.softcap(x, cap)


def swiglu(gate_up: Float32) -> Float32:
    """`silu(gate) * up` of `gate_up [T, 2 I]`, gate first (arXiv 2002.05202): float32 `[T, I]`."""
    y = empty(_rows(gate_up, "gate_up"), gate_up.shape[-1] // 2)
    _cpu.swiglu(gate_up, y)
    return y


def geglu(gate_up: Float32) -> Float32:
    """`gelu(gate) * up` of `gate_up [T, 2 I]`, gate first (arXiv 2002.05202): float32 `[T, I]`.

    gelu is approximated with tanh, as in `gelu_pytorch_tanh` (arXiv 1606.08415).
    """
    y = empty(_rows(gate_up, "gate_up"), gate_up.shape[-1] // 2)
    _cpu.geglu(gate_up, y)
    return y


def attention(
    q: Float32,
    k: Float32,
    v: Float32,
    layer: int,
    rows: Rows,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Float32:
    """Append keys and values to the rows' caches; attend to all keys up to each row's own: float32 `[T, heads * d]`.

    Args:
        q: `[T, heads, d]`; queries h * g .. h * g + g - 1 share KV head h (grouped-query attention, arXiv 2305.13245).
            Rows may lie apart, here and below.
        k: `[T, kv_heads, d]`.
        v: `[T, kv_heads, d]`.
        layer: Which of the caches' layers to use.
        rows: The sequence of each row. A sequence's rows see those before them and what its cache holds, nothing else.
        scale: Of the scores; `1 / sqrt(d)` when None.
        window: Maximum keys that a row attends to, its own and those right before it (arXiv 2004.05150); all when None.
        softcap: c, where scores become `c tanh(score / c)` (Gemma 2, arXiv 2408.00118).
    """
    count, heads, head_dim = q.shape if isinstance(q, np.ndarray) and q.ndim == 3 else _refuse(q)
    y = empty(count, heads, head_dim)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    _cpu.attention(q, k, v, layer, rows.native, scale, window or 0, softcap or 0.0, y)
    return y.reshape(count, heads * head_dim)


def top(logits: Float32, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest of `logits [V]`, largest first and of equal ones the first first: int64 `[count]`.

    They are those of a stable sort, which takes a hundred times as long for a vocabulary of 150,000.
    """
    ids = np.empty(count, np.int64)
    _cpu.top(logits, ids)
    return ids


def softmax_mass(logits: Float32, maximum: float, temperature: float) -> float:
    """The sum of `exp((logits - maximum) / temperature)` in float64, `maximum` being that of `logits [V]`."""
    return _cpu.softmax_mass(logits, maximum, temperature)


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


def spans() -> bool:
    """Whether matrix products of more than 32 rows with a 4-bit weight round once more, for speed.

    That is, with the instruction set in use, and unless `use_spans` or `EDGEREASON_SPANS` forbids it. Activations are
    then quantized per row and span of 128 inputs, and so are weights, to 8 bits, where a span has several groups. A
    row's result depends on whether it is one of many, not on which rows are beside it.
    """
    return _cpu.spans()


def use_spans(wanted: bool) -> None:
    """Allow spans, or compute many rows exactly as each alone. At first: unless `EDGEREASON_SPANS` is `off`."""
    _cpu.use_spans(wanted)


def build() -> str:
    """Tells this build of the kernels from others, whose results may differ in rounding."""
    library = Path(_cpu.__file__).stat()
    return f"{library.st_size}-{library.st_mtime_ns}"


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
