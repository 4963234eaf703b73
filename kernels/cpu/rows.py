"""The rows of a forward pass, one per token: which sequence, position and adapter each of them belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import _cpu

NO_ADAPTER = -1


class Segment(NamedTuple):
    """Neighbouring rows of a forward pass: the next `tokens` tokens of one sequence."""

    cache: _cpu.KVCache
    tokens: int
    adapter: int = NO_ADAPTER
    """Index of the adapter whose weights these rows have, as `attach` gave it to them."""
    outputs: int = 1
    """For how many of the rows, the last ones, logits are wanted."""
    limit: int = 0
    """Maximum length of the sequence in tokens, on which some rotary embeddings depend."""


class Rows:
    """What a model's operations have to know of the T rows of one forward pass.

    A batch has segments of different sequences side by side, long ones (prefill) beside short ones (a decoding step).
    Room in the caches is made here, so that operations only write; what they wrote counts after `commit`.

    Attributes:
        positions: Where in its sequence each row stands: int64 `[T]`.
        outputs: Indices of the rows whose logits are wanted, ascending: int64.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Raises `ValueError` where a cache is in two segments, or a number is out of its range."""
        for segment in segments:
            if not 0 <= segment.outputs <= segment.tokens:
                raise ValueError(f"outputs is {segment.outputs}, for {segment.tokens} rows")
        self.native = _cpu.Rows([(cache, tokens, adapter) for cache, tokens, adapter, *_ in segments])
        self._segments = segments
        self.positions = _joined([range(s.cache.length, s.cache.length + s.tokens) for s in segments])
        ends = accumulate(segment.tokens for segment in segments)
        self.outputs = _joined([range(end - s.outputs, end) for s, end in zip(segments, ends, strict=True)])

    @property
    def limits(self) -> npt.NDArray[np.int64]:
        """Maximum length in tokens of each row's sequence: int64 `[T]`."""
        return np.repeat([s.limit for s in self._segments], [s.tokens for s in self._segments]).astype(np.int64)

    def __len__(self) -> int:
        return self.native.total

    def commit(self) -> None:
        """Take the rows' tokens into their caches, once all layers have written them.

        Raises:
            ValueError: a cache was changed during the forward pass; none of them takes anything then.
        """
        self.native.commit()


def _joined(parts: Sequence[range]) -> npt.NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(parts), np.int64, sum(map(len, parts)))
