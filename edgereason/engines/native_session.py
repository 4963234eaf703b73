"""A sequence of the native engine: it can be forked, cut back, saved, and brought to other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count
from operator import ne
from typing import TYPE_CHECKING

import numpy as np

from edgereason.engines.base import Logits
from edgereason.errors import EngineError
from edgereason.kernels.cpu import KVCache

if TYPE_CHECKING:
    from edgereason.engines.native import NativeEngine


class NativeSession:
    """One sequence and its KV cache; see `edgereason.engines.base.Session`. Not for use by two threads at once.

    Attributes:
        engine: What computes it.
        adapter: Index of the adapter that computes the tokens to come, or None for the base alone. It may change
            between two calls: keys and values that are in the cache stay as they were computed. An activated adapter
            computes what follows its invocation, the base alone what comes before it.
        activation: From which token on an activated adapter applies; None finds its invocation in what is appended,
            which has to come in one piece then.
        capacity: Most tokens that it can hold.
    """

    def __init__(self, engine: NativeEngine, cache: KVCache, capacity: int, adapter: int | None) -> None:
        self.adapter = adapter
        self.activation: int | None = None
        self.capacity = capacity
        self.engine = engine
        self._cache: KVCache | None = cache
        self._ids: list[int] = []
        self._adapters: list[int | None] = []

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """The tokens in the cache."""
        return list(self._ids)

    @property
    def activated(self) -> bool:
        """Whether its adapter computed the last token, and so computes those to come."""
        return self.adapter is not None and self._adapters[-1:] == [self.adapter]

    @property
    def adapters(self) -> list[int | None]:
        """Which adapter computed each of the tokens in the cache."""
        return list(self._adapters)

    @property
    def cache(self) -> KVCache:
        """The keys and values.

        Raises:
            EngineError: the session is closed.
        """
        if self._cache is None:
            raise EngineError("This session is closed.", "Start another one.")
        return self._cache

    @property
    def nbytes(self) -> int:
        """Memory of the cache, including the pages that forks share; 0 when closed."""
        return self._cache.nbytes if self._cache else 0

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids`; see `edgereason.engines.base.Session`."""
        return self.engine.advance([(self, ids, None if every else 1)])[0]

    def advance_to(self, ids: Sequence[int]) -> Logits:
        """Make `ids` the whole sequence, and compute only what follows the part that it has in common with them.

        Returns:
            float32 logits `[1, vocab]` of what follows the last of `ids`.

        Raises:
            ContextError: `ids` are more than the session's capacity; the sequence is as before then.
        """
        self.engine.check_capacity(self, len(ids))
        # The last token is computed in any case: its logits are asked for.
        self.truncate(min(self.common_prefix(ids), max(0, len(ids) - 1)))
        return self.advance(ids[self.length :])

    def common_prefix(self, ids: Sequence[int], adapters: Sequence[int | None] | None = None) -> int:
        """How many of the first tokens are the same as those of `ids`, and computed by the same of `adapters`."""
        same = _common(self._ids, ids)
        return same if adapters is None else min(same, _common(self._adapters, adapters))

    def begins(self, whole: NativeSession) -> bool:
        """Whether `whole` begins with all tokens of this sequence, computed by the same adapters."""
        length = self.length
        return whole._ids[:length] == self._ids and whole._adapters[:length] == self._adapters

    def fork(self, capacity: int | None = None, length: int | None = None) -> NativeSession:
        """A session with the same tokens that can go on differently. They share memory up to where they part.

        Args:
            capacity: Most tokens that it can hold; as many as this one when None.
            length: How many of the first tokens it has; all when None.

        Raises:
            BundleError: the model turns its keys by other angles for another capacity.
            ContextError: `capacity` exceeds the model's context, or is less than `length`.
        """
        length = self.length if length is None else length
        capacity = self.capacity if capacity is None else capacity
        self.engine.check_fork(self, capacity, length)
        fork = NativeSession(self.engine, self.cache.fork(), capacity, self.adapter)
        fork.activation = self.activation
        fork.take(self._ids, self._adapters)
        fork.truncate(length)
        return fork

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on.

        Raises:
            ValueError: `length` is negative, or more than there are.
        """
        self.cache.truncate(length)
        del self._ids[length:], self._adapters[length:]

    def save(self) -> bytes:
        """The session's state, for `NativeEngine.restore`: the same model, adapter and kind of cache go on from it."""
        cache = self.cache
        state = np.empty(cache.state_bytes(cache.length), np.uint8)
        cache.save(state)
        return self.engine.describe(self, state).to_bytes()

    def close(self) -> None:
        """Give the cache's memory back. Closing twice is allowed."""
        self._cache = None
        self._ids, self._adapters = [], []

    def take(self, ids: Sequence[int], adapters: Sequence[int | None]) -> None:
        """Note tokens that the engine has put into the cache, and the adapters that computed them."""
        self._ids += ids
        self._adapters += adapters


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many of the first elements are the same."""
    end = min(len(one), len(other))
    return end if one[:end] == other[:end] else next(compress(count(), map(ne, one, other)))
