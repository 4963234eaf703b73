"""While one model writes a text, the other reads it: two sequences of one engine in the same passes over the weights.

The answer's prompt is the question and then the guidance. Its instructions and question are known when the guidance
begins, and each of the guidance's tokens as soon as it is written. So the answer model's sequence grows beside the
guidance model's, and when the guidance ends, the answer starts with one step.

What is read ahead is a guess, since the end of an unfinished text may be tokenized in another way than in the finished
one. The last tokens are held back, and the pipeline keeps of the sequence only what the finished prompt begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgereason.engines.base import Logits
from edgereason.engines.native import NativeEngine
from edgereason.engines.native_session import NativeSession

_PIECES = 8
"""Pieces of text that are read at once: tokenizing costs as much as some rows of a pass. What is not read yet when the
writer ends, the next model's first pass computes."""
_HELD_BACK = 2
"""Tokens at the end of an unfinished text that may still change."""
_MOST_ROWS = 16
"""Of a pass that both share. Up to here a pass costs what reading the weights costs, and rows do not depend on it."""

Prompt = Callable[[str], list[int]]
"""Token ids of the reader's prompt up to the end of a text, unfinished as it may be."""


class OverlappedPrefill:
    """The writer's session for the decoding loop, with a reader beside it; see `edgereason.engines.base.Session`.

    Args:
        engine: That of both.
        writer: The session that writes. It is not closed with this one.
        reader: Gives a session for what is known of the reader's prompt, when the first token is written.
        prompt: The reader's prompt.
    """

    def __init__(
        self,
        engine: NativeEngine,
        writer: NativeSession,
        reader: Callable[[Sequence[int]], NativeSession],
        prompt: Prompt,
    ) -> None:
        self.reader: NativeSession | None = None
        self._engine = engine
        self._writer = writer
        self._open = reader
        self._prompt = prompt
        self._text = ""
        self._unread = 0
        self._begun = False

    @property
    def length(self) -> int:
        """Tokens in the writer's cache."""
        return self._writer.length

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids` to the writer's sequence, and what is new to the reader's."""
        if not self._begun:  # the writer's prompt comes first: somebody waits for its first token
            self._begun = True
            return self._writer.advance(ids, every)
        steps = [(self._writer, ids, None if every else 1)]
        reader, new = self._new()
        if len(new) > _MOST_ROWS:  # the writer's rows are computed in passes of few rows, as they always are
            self._engine.advance([(reader, new, 0)])
        elif len(ids) + len(new) > _MOST_ROWS:
            self._unread = _PIECES
        elif new:
            steps.append((reader, new, 0))
        return self._engine.advance(steps)[0]

    def hear(self, piece: str) -> None:
        """Take more of the text that the writer writes."""
        self._text += piece
        self._unread += 1

    def truncate(self, length: int) -> None:
        """Forget the writer's tokens from `length` on."""
        self._writer.truncate(length)

    def close(self) -> None:
        """Give the reader's memory back. Closing twice is allowed."""
        if self.reader is not None:
            self.reader.close()

    def _new(self) -> tuple[NativeSession, list[int]]:
        """The reader, and what its sequence lacks, once enough has come together."""
        if self.reader is None:
            self.reader = self._open(self._prompt(self._text))
        elif self._unread < _PIECES:
            return self.reader, []
        self._unread = 0
        ids = self._prompt(self._text)[:-_HELD_BACK][: self.reader.capacity]
        known = self.reader.common_prefix(ids)
        self.reader.truncate(known)
        return self.reader, ids[known:]
