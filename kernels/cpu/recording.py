"""Forward passes of few rows, recorded once for each number of rows and replayed without Python between operations.

A small model's token takes about as long as the sixty calls that compute it. The operations that a family's function
calls are the same for every token, on memory at the same places if the results of each forward pass are put where those
of the first one were. So the first pass writes its operations down, and those that follow are one call. (CUDA graphs do
the same for the same reason.)
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import _cpu
from edgereason.kernels.cpu.rows import Rows

MAX_ROWS = 16
"""Maximum rows of a recorded forward pass; more keep the kernels busy for longer than Python takes."""

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
RotaryEmbeddings = Sequence[tuple[Float32, Float32]]
"""Cosines and sines `[T, R / 2]`, of each rotary embedding of a model."""
Compute = Callable[[Int64, Rows, RotaryEmbeddings], Float32]

_HOLDERS = 3
"""References to a block that nothing uses: the list's, the loop's, and the one that `getrefcount` is given."""

_thread = threading.local()


def empty(*shape: int) -> Float32:
    """Memory for an operation's result: float32 of this shape, the recording's while there is one."""
    workspace: Workspace | None = getattr(_thread, "workspace", None)
    return np.empty(shape, np.float32) if workspace is None else workspace.empty(shape)


class Workspace:
    """Memory for results, which recordings share: their forward passes come one after the other."""

    def __init__(self) -> None:
        self.blocks: list[Float32] = []

    def empty(self, shape: tuple[int, ...]) -> Float32:
        """An array in a block that no other array uses. numpy's views all refer to the block itself."""
        size = math.prod(shape)
        for block in self.blocks:
            if block.size >= size and sys.getrefcount(block) == _HOLDERS:
                return block[:size].reshape(shape)
        self.blocks.append(np.empty(size, np.float32))
        return self.blocks[-1][:size].reshape(shape)


class Recorder:
    """Calls the function of a forward pass, or replays what it did. Not for use by two threads at once.

    Args:
        compute: From ids `[T]`, rows, and cosines and sines of each rotary embedding, to float32 `[T, N]`.
            It changes no array but through `edgereason.kernels.cpu`. Where it computes anything by other means, it is
            called each time.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._workspace = Workspace()
        self._recordings: dict[int, _Recording] = {}

    def __call__(self, ids: Int64, rows: Rows, rotary: RotaryEmbeddings) -> Float32:
        """What `compute` returns; it may be overwritten by the next call."""
        if not 0 < len(ids) <= MAX_ROWS:
            return self._compute(ids, rows, rotary)
        recording = self._recordings.get(len(ids))
        if recording is None:
            recording = _Recording(ids, rotary)
            result = recording.record(self._compute, rows, self._workspace)
            self._recordings[len(ids)] = recording
            return result
        return recording.replay(ids, rows, rotary) if recording.complete else self._compute(ids, rows, rotary)


class _Recording:
    """The operations of a forward pass, and where they find their inputs."""

    def __init__(self, ids: Int64, rotary: RotaryEmbeddings) -> None:
        self.complete = False
        self._tape = _cpu.Tape()
        self._ids = ids.copy()
        self._rotary = [(cos.copy(), sin.copy()) for cos, sin in rotary]
        self._result = np.empty((0, 0), np.float32)

    def record(self, compute: Compute, rows: Rows, workspace: Workspace) -> Float32:
        self._tape.record(True)
        _thread.workspace = workspace
        try:
            self._result = compute(self._ids, rows, self._rotary)
        finally:
            _thread.workspace = None
            self._tape.record(False)
        self._tape.lend_ids(self._ids)
        for array in [*workspace.blocks, *chain.from_iterable(self._rotary)]:
            self._tape.lend(array.reshape(-1))
        self.complete = self._tape.complete and self._tape.has(self._result)
        if not self.complete:
            self._tape = _cpu.Tape()
        return self._result

    def replay(self, ids: Int64, rows: Rows, rotary: RotaryEmbeddings) -> Float32:
        self._ids[:] = ids
        for (own_cos, own_sin), (cos, sin) in zip(self._rotary, rotary, strict=True):
            own_cos[:] = cos
            own_sin[:] = sin
        self._tape.run(rows.native)
        return self._result
