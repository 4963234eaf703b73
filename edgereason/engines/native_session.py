"""A sequence of the native engine: it can be forked, cut back, saved, and brought to other tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count, groupby
from operator import itemgetter, ne
from typing import TYPE_CHECKING

from edgereason.engines.base import Logits
from edgereason.engines.checks import check_fits, check_truncation, closed_session
from edgereason.engines.sequence_state import SequenceState

if TYPE_CHECKING:
    from edgereason.engines.native import NativeEngine


class NativeSession:
    """One sequence and its state; see `edgereason.engines.base.Session`. Not for use by two threads at once.

    Attributes:
        engine: What computes it.
        adapter: Index of the adapter that computes the tokens to come, or None for the base alone. It may change
            between two calls: what was computed before stays as it is. An activated adapter computes what follows its
            invocation, the base alone what comes before it.
        activation: From which token on an activated adapter applies; None finds its invocation in what is appended,
            which has to come in one piece then.
        capacity: Maximum tokens.
    """

    def __init__(self, engine: NativeEngine, state: SequenceState, capacity: int, adapter: int | None) -> None:
        self.adapter = adapter
        self.activation: int | None = None
        self.capacity = capacity
        self.engine = engine
        self._state: SequenceState | None = state
        self._ids: list[int] = []
        self._adapters: list[int | None] = []

    @property
    def length(self) -> int:
        """Tokens in the sequence."""
        return len(self._ids)

    @property
    def ids(self) -> list[int]:
        """The tokens of the sequence."""
        return list(self._ids)

    @property
    def activated(self) -> bool:
        """Whether its adapter computed the last token, and so computes those to come."""
        return self.adapter is not None and self._adapters[-1:] == [self.adapter]

    @property
    def adapters(self) -> list[int | None]:
        """Which adapter computed each of the tokens."""
        return list(self._adapters)

    @property
    def state(self) -> SequenceState:
        """What the model remembers of the tokens.

        Raises:
            EngineError: the session is closed.
        """
        if self._state is None:
            raise closed_session()
        return self._state

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes, including what forks share; 0 when closed."""
        return self._state.nbytes if self._state else 0

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
        check_fits(len(ids), self.capacity)
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
            capacity: Maximum tokens; as many as this one when None.
            length: How many of the first tokens it has; all when None.

        Raises:
            BundleError: the model's RoPE frequencies are others for this capacity.
            ContextError: `capacity` exceeds the model's context, or is less than `length`.
        """
        length = self.length if length is None else length
        capacity = self.capacity if capacity is None else capacity
        self.engine.check_fork(self, capacity, length)
        fork = NativeSession(self.engine, self.state.fork(), capacity, self.adapter)
        fork.activation = self.activation
        fork.take(self._ids, self._adapters)
        fork.truncate(length)
        return fork

    def longest_reachable(self, length: int) -> int:
        """The longest length, at most `length`, that can be had without computing tokens again."""
        return self.state.longest_reachable(length)

    def rewind(self, length: int) -> int:
        """Cut the sequence back to the longest reachable length, at most `length`; returns it.

        Raises:
            ValueError: `length` is negative, or more than there are.
        """
        state = self.state
        check_truncation(length, self.length)
        reached = state.longest_reachable(length)
        state.truncate(reached)
        del self._ids[reached:], self._adapters[reached:]
        return reached

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; see `edgereason.engines.base.Session`.

        Where the state cannot be cut back to `length`, the tokens before it are computed again.

        Raises:
            EngineError: an adapter that computed such a token has been unloaded.
        """
        ids, adapters = self._ids, self._adapters
        reached = self.longest_reachable(length)
        lost = list(zip(adapters[reached:length], ids[reached:length], strict=True))
        self.rewind(length)
        if lost:
            self._compute_again(lost)

    def save(self) -> bytes:
        """The session as bytes, for `NativeEngine.restore`: the same model, adapter and kind of cache go on from it."""
        return self.engine.describe(self).to_bytes()

    def close(self) -> None:
        """Give the state's memory back. Closing twice is allowed."""
        self._state = None
        self._ids, self._adapters = [], []

    def take(self, ids: Sequence[int], adapters: Sequence[int | None]) -> None:
        """Note tokens that the engine has computed, and the adapters that computed them."""
        self._ids += ids
        self._adapters += adapters

    def _compute_again(self, tokens: Sequence[tuple[int | None, int]]) -> None:
        """Append pairs of adapter and id, each run of one adapter in one step."""
        adapter, activation = self.adapter, self.activation
        try:
            for chosen, run in groupby(tokens, key=itemgetter(0)):
                self.adapter, self.activation = chosen, self.length
                self.engine.advance([(self, [token for _, token in run], 0)])
        finally:
            self.adapter, self.activation = adapter, activation


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """How many of the first elements are the same."""
    end = min(len(one), len(other))
    return end if one[:end] == other[:end] else next(compress(count(), map(ne, one, other)))
