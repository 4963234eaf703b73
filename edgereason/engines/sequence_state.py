"""What a model remembers of one sequence, and how far back it can be cut.

A KV cache can be cut back to any length. The states of other families cannot: a recurrent state (Mamba, linear
attention) has forgotten how it came about, a short convolution keeps its last inputs alone, and both can only go back
to lengths of which they kept a copy. So whoever wants a shorter sequence asks which length can be reached, and computes
the tokens from there on again.
"""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import KVCache

UInt8 = npt.NDArray[np.uint8]


class SequenceState(Protocol):
    """The state of one sequence in all layers. Not for use by two threads at once."""

    @property
    def cache(self) -> KVCache:
        """The KV cache of the attention layers."""
        ...

    @property
    def length(self) -> int:
        """Tokens in the state."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory in bytes, including what forks share."""
        ...

    def fork(self) -> Self:
        """A state of the same tokens that can go on differently."""
        ...

    def longest_reachable(self, length: int) -> int:
        """The longest length, at most `length`, that `truncate` can cut this state back to."""
        ...

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on.

        Raises:
            ValueError: `length` is negative, more than there are, or cannot be reached.
        """
        ...

    def save(self) -> UInt8:
        """The state as bytes, for `load`."""
        ...

    def load(self, saved: UInt8, length: int) -> None:
        """Replace the state by a saved one of `length` tokens.

        Raises:
            ValueError: the bytes are of another shape.
        """
        ...


class KVCacheState:
    """The state of a transformer whose layers are all attention: a KV cache, and nothing beside it."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    @property
    def length(self) -> int:
        return self.cache.length

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    def fork(self) -> Self:
        return type(self)(self.cache.fork())

    def longest_reachable(self, length: int) -> int:
        return min(length, self.length)

    def truncate(self, length: int) -> None:
        self.cache.truncate(length)

    def save(self) -> UInt8:
        saved = np.empty(self.cache.state_bytes(self.length), np.uint8)
        self.cache.save(saved)
        return saved

    def load(self, saved: UInt8, length: int) -> None:
        if len(saved) != self.cache.state_bytes(length):
            raise ValueError(f"{len(saved)} bytes for {length} tokens")
        self.cache.load(saved, length)
