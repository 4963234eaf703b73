"""The prefix cache: sequences that are kept in memory, so that a prompt computes only what is new in it.

Instructions, a repeated question, a conversation that goes on: all of them are prompts that begin as an earlier
sequence did. Sequences share the memory of what they have in common (PagedAttention, arXiv 2309.06180, with prefixes
reused as in SGLang, arXiv 2312.07104).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from edgereason.engines.native import NativeEngine
from edgereason.engines.native_session import NativeSession
from edgereason.errors import BundleError

MAX_BYTES = 64 << 20
MAX_SEQUENCES = 16


class PrefixCache:
    """The sequences of one engine that were used last. Safe to use from several threads.

    Args:
        engine: Computes the sequences.
        max_bytes: Maximum bytes of all states, counting what sequences share for each of them; 0 keeps none.
    """

    def __init__(self, engine: NativeEngine, max_bytes: int = MAX_BYTES) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        self._kept: list[NativeSession] = []  # the one used last comes last
        self._lock = threading.Lock()

    def session(
        self, prompt: Sequence[int], adapter: int | None, capacity: int, also: NativeSession | None = None
    ) -> NativeSession:
        """A session that holds the longest known prefix of `prompt`, and never its last token.

        A token is known with the adapter that computed it: what the base alone has computed of a prompt serves all
        activated adapters.

        Args:
            prompt: Token ids, at least one.
            adapter: That of the prompt's model.
            capacity: Maximum tokens.
            also: Another session that may begin so.

        Raises:
            ContextError: `capacity` exceeds the model's context.
        """
        adapters = self._engine.token_adapters(adapter, prompt)
        with self._lock:
            session = self._longest(prompt, adapters, capacity, also)
        if session is None:
            session = self._engine.session(capacity, adapter)
        session.adapter = adapter
        session.activation = next((row for row, found in enumerate(adapters) if found is not None), capacity)
        return session

    def keep(self, session: NativeSession) -> None:
        """Keep what a session holds now, for those to come. The session itself stays the caller's."""
        with self._lock:
            for kept in self._kept:
                if _replaces(kept, session):
                    self._touch(kept)
                    return
            for kept in [kept for kept in self._kept if _replaces(session, kept)]:
                self._kept.remove(kept)
                kept.close()
            self._kept.append(session.fork())
            while len(self._kept) > MAX_SEQUENCES or sum(kept.nbytes for kept in self._kept) > self._max_bytes:
                self._kept.pop(0).close()

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            for kept in self._kept:
                kept.close()
            self._kept = []

    def _longest(
        self, prompt: Sequence[int], adapters: Sequence[int | None], capacity: int, also: NativeSession | None
    ) -> NativeSession | None:
        # Another engine is another model.
        candidates = [*self._kept, also] if also is not None and also.engine is self._engine else self._kept
        known = {id(kept): _known(kept, prompt, adapters) for kept in candidates}
        for kept in sorted(candidates, key=lambda kept: -known[id(kept)]):
            if known[id(kept)] == 0:
                break
            with contextlib.suppress(BundleError):  # its RoPE frequencies depend on its capacity
                fork = kept.fork(capacity, known[id(kept)])
                if kept is not also:
                    self._touch(kept)
                return fork
        return None

    def _touch(self, kept: NativeSession) -> None:
        self._kept.remove(kept)
        self._kept.append(kept)


def _known(kept: NativeSession, prompt: Sequence[int], adapters: Sequence[int | None]) -> int:
    """How many of a prompt's first tokens a kept sequence can be cut back to; never all of them."""
    same = min(kept.common_prefix(prompt, adapters), len(prompt) - 1)
    return kept.longest_reachable(same) if same else 0


def _replaces(whole: NativeSession, beginning: NativeSession) -> bool:
    """Whether a sequence gives everything that its beginning gives."""
    length = beginning.length
    return (
        beginning.capacity <= whole.capacity and beginning.begins(whole) and whole.longest_reachable(length) == length
    )
