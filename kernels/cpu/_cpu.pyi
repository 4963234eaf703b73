from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class Weight:
    def __init__(
        self,
        qweight: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.float16],
        zeros: npt.NDArray[np.uint8] | None,
        rows: int,
        columns: int,
        bits: int,
        order: npt.NDArray[np.int32] | None = None,
        bias: npt.NDArray[np.float32] | None = None,
    ) -> None: ...
    @staticmethod
    def float32(data: npt.NDArray[np.float32], bias: npt.NDArray[np.float32] | None = None) -> Weight: ...
    @staticmethod
    def float16(data: npt.NDArray[np.float16], bias: npt.NDArray[np.float32] | None = None) -> Weight: ...
    @staticmethod
    def bfloat16(data: npt.NDArray[np.uint16], bias: npt.NDArray[np.float32] | None = None) -> Weight: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def attach(
        self, index: int, down: npt.NDArray[Any], parts: Sequence[tuple[npt.NDArray[Any], int, float]]
    ) -> None: ...
    def detach(self, index: int) -> None: ...

class KVCache:
    """Keys and values of one sequence in all layers, in pages of 64 tokens that forks share.

    `type` is `f32`, `f16`, or `int8` with a scale for each token and head. It grows as the sequence does.
    """

    def __init__(self, layers: int, kv_heads: int, head_dim: int, type: str) -> None: ...
    @property
    def length(self) -> int:
        """Tokens in the cache."""

    @property
    def type(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Memory of its pages, those included that forks share."""

    def fork(self) -> KVCache:
        """A cache with the same tokens, which can go on differently; only its last page is copied, when it does."""

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on. Raises `ValueError` where there are fewer."""

    def state_bytes(self, length: int) -> int:
        """Bytes of the state of `length` tokens."""

    def save(self, state: npt.NDArray[np.uint8]) -> None:
        """Write the tokens' keys and values to `state [state_bytes(length)]`.

        For each layer and KV head: keys `[length, head_dim]`, values `[length, head_dim]`, with int8 also the keys'
        scales float32 `[length]` and the values'.
        """

    def load(self, state: npt.NDArray[np.uint8], length: int) -> None:
        """Replace the tokens by those of a saved state."""

class Rows:
    def __init__(self, segments: Sequence[tuple[KVCache, int, int]]) -> None: ...
    @property
    def total(self) -> int: ...
    def commit(self) -> None: ...

class Tape:
    """The operations of a forward pass; see src/bindings/tape.h."""

    def __init__(self) -> None: ...
    def lend(self, floats: npt.NDArray[np.float32]) -> None:
        """Lend memory `[size]` for operands; the caller keeps it alive."""

    def lend_ids(self, ids: npt.NDArray[np.int64]) -> None: ...
    def has(self, x: npt.NDArray[np.float32]) -> bool:
        """Whether `x [T, N]` lies in memory that was lent."""

    @property
    def complete(self) -> bool:
        """Whether all operands of what was recorded lie in memory that was lent."""

    def record(self, on: bool) -> None:
        """Take down the operations of this thread from now on, or no longer."""

    def run(self, rows: Rows) -> None:
        """Compute what was recorded, which has to be complete, on what the memory holds now."""

_F32 = npt.NDArray[np.float32]

def linear(x: _F32, weight: Weight, rows: Rows | None, add: _F32 | None, y: _F32) -> None: ...
def embedding(ids: npt.NDArray[np.int64], weight: Weight, y: _F32) -> None: ...
def rms_norm(x: _F32, weight: _F32, eps: float, y: _F32) -> None: ...
def rope(x: _F32, cos: _F32, sin: _F32) -> None: ...
def head_norm(x: _F32, weight: _F32, eps: float) -> None: ...
def softcap(x: _F32, cap: float) -> None: ...
def swiglu(gate_up: _F32, y: _F32) -> None: ...
def geglu(gate_up: _F32, y: _F32) -> None: ...
def attention(
    q: _F32, k: _F32, v: _F32, layer: int, rows: Rows, scale: float, window: int, softcap: float, y: _F32
) -> None: ...
def round(
    weight: npt.NDArray[Any],
    group: int,
    bits: int,
    fractions: _F32,
    qweight: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float16],
    zeros: npt.NDArray[np.uint8] | None,
) -> bool: ...
def top(logits: _F32, ids: npt.NDArray[np.int64]) -> None: ...
def softmax_mass(logits: _F32, maximum: float, temperature: float) -> float: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str) -> None: ...
def spans() -> bool: ...
def use_spans(wanted: bool) -> None: ...
def cpu_features() -> list[str]: ...
def set_profiling(on: bool) -> None: ...
def profile() -> list[tuple[str, int, float, float, float]]: ...
def threads() -> int: ...
def set_threads(count: int) -> None: ...
