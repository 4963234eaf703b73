"""Overlapped prefill: the answer model's prefill runs while guidance is being decoded, in the same forward passes.

The answer's prompt is the question, then guidance. Its instructions and the question are known when guidance begins,
and each token of guidance as soon as it is written. So the answer model's sequence grows beside the guidance model's,
and when guidance ends, the answer starts with one step.

Prefill ahead is a guess, since the end of an unfinished text may be tokenized in another way than in the finished one.
The last tokens are held back, and the pipeline keeps of the sequence only what the finished prompt begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgereason.engines.base import Logits
from edgereason.engines.native import NativeEngine
from edgereason.engines.native_session import NativeSession

_PIECES = 8
"""Pieces of text per step of the reader: tokenizing costs as much as some tokens of a forward pass. What the reader
lacks when the writer ends, the answer's own prefill computes."""
_HELD_BACK = 2
"""Tokens at the end of an unfinished text that may still change."""
_MAX_SHARED_TOKENS = 16
"""Maximum tokens of a forward pass that both share. Up to here a forward pass costs what reading the weights costs, and
its results do not depend on the number of tokens."""

ReaderPrompt = Callable[[str], list[int]]
"""Token ids of the reader's prompt up to the end of a text, unfinished as it may be."""


class OverlappedPrefill:
    """The guidance model's session (writer) with the answer model's (reader) beside it.

    For the decoding loop it is the writer; see `edgereason.engines.base.Session`.

    Args:
        engine: That of both.
        writer: The session that is decoded. It is not closed with this one.
        open_reader: Gives a session for what is known of the reader's prompt, when the first token is written.
        prompt: The reader's prompt.
    """

    def __init__(
        self,
        engine: NativeEngine,
        writer: NativeSession,
        open_reader: Callable[[Sequence[int]], NativeSession],
        prompt: ReaderPrompt,
    ) -> None:
        self.reader: NativeSession | None = None
        self._engine = engine
        self._writer = writer
        self._open_reader = open_reader
        self._prompt = prompt
        self._text = ""
        self._pending = 0
        self._begun = False

    @property
    def length(self) -> int:
        """Tokens of the writer."""
        return self._writer.length

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids` to the writer's sequence, and what is new to the reader's."""
        if not self._begun:  # the writer's prompt comes first: somebody waits for its first token
            self._begun = True
            return self._writer.advance(ids, every)
        steps = [(self._writer, ids, None if every else 1)]
        reader, new = self._new()
        if len(new) > _MAX_SHARED_TOKENS:  # the writer is computed in small forward passes, as it always is
            self._engine.advance([(reader, new, 0)])
        elif len(ids) + len(new) > _MAX_SHARED_TOKENS:
            self._pending = _PIECES
        elif new:
            steps.append((reader, new, 0))
        return self._engine.advance(steps)[0]

    def hear(self, piece: str) -> None:
        """Take more of the text that the writer writes."""
        self._text += piece
        self._pending += 1

    def truncate(self, length: int) -> None:
        """Forget the writer's tokens from `length` on."""
        self._writer.truncate(length)

    def close(self) -> None:
        """Give the reader's memory back. Closing twice is allowed."""
        if self.reader is not None:
            self.reader.close()

    def _new(self) -> tuple[NativeSession, list[int]]:
        """The reader and the ids that it lacks, once enough of them have come together."""
        if self.reader is None:
            self.reader = self._open_reader(self._prompt(self._text))
        elif self._pending < _PIECES:
            return self.reader, []
        self._pending = 0
        ids = self._prompt(self._text)[:-_HELD_BACK][: self.reader.capacity]
        known = self.reader.rewind(self.reader.common_prefix(ids))
        return self.reader, ids[known:]
