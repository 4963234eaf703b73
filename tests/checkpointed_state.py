"""A state that cannot be cut back to any length, as those of recurrent models."""

from __future__ import annotations

from edgereason.engines.sequence_state import KVCacheState

EVERY = 8


class CheckpointedState(KVCacheState):
    """It reaches the multiples of `EVERY`, and the length that it has."""

    def longest_reachable(self, length: int) -> int:
        return length if length == self.length else min(length, self.length) // EVERY * EVERY

    def truncate(self, length: int) -> None:
        if self.longest_reachable(length) != length:
            raise ValueError(f"length is {length}, which has no checkpoint")
        super().truncate(length)
