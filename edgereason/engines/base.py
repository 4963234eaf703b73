"""What an engine is: something that turns token ids into logits, and remembers the sequence while it does.

Everything else (sampling, stop tokens, text) belongs to the decoding loop, `edgereason.decoding.loop`, and is the same
for all engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edgereason.text.tokenizer import TextTokenizer

Logits = npt.NDArray[np.float32]


class Session(Protocol):
    """One sequence, and what the model remembers of it. Not for use by two threads at once."""

    @property
    def length(self) -> int:
        """Tokens in the sequence."""
        ...

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids` (at least one) to the sequence.

        Returns:
            float32 logits of what follows: `[1, vocab]` after the last of `ids`, or with `every`
            `[len(ids), vocab]`, row i after `ids[: i + 1]`.

        Raises:
            ContextError: the sequence would exceed the session's capacity.
            ValueError: `ids` is empty, or has ids outside of the vocabulary.
        """
        ...

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on.

        Raises:
            ValueError: `length` is negative, or more than there are.
        """
        ...

    def close(self) -> None:
        """Give the sequence's memory back. The session cannot be used afterwards; closing twice is allowed."""
        ...


@runtime_checkable
class Forking(Session, Protocol):
    """A session that can go on in several ways."""

    def fork(self, capacity: int | None = None) -> Forking:
        """A session with the same tokens, which shares their memory and can grow to `capacity` tokens.

        Raises:
            BundleError: the model's RoPE frequencies are others for this capacity.
        """
        ...

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many of the first tokens are the same as those of `ids`."""
        ...


class Engine(Protocol):
    """A loaded model. Safe to use from several threads, each with sessions of its own."""

    name: str
    """`native`, `llama.cpp` or `onnx`."""
    vocab_size: int
    context_length: int
    """Maximum tokens of a session."""
    token_cost: float
    """Cost of one more token in a forward pass, roughly, as a share of a forward pass of one token; 1 where computing
    the logits of several tokens at once does not pay."""

    def session(self, capacity: int | None = None, adapter: int | None = None) -> Session:
        """Start an empty sequence that can grow to `capacity` tokens (`context_length` when None).

        Args:
            capacity: Maximum tokens.
            adapter: Index of a loaded adapter, or None for the model's own weights.

        Raises:
            ContextError: `capacity` exceeds `context_length`.
            UsageError: there is no such adapter.
        """
        ...

    def load_adapter(self, path: Path) -> int:
        """Load an adapter, which sessions can use beside others and the model alone; returns its index.

        Raises:
            BundleError: it is missing or damaged, or does not fit the model.
            UsageError: the engine has no adapters.
        """
        ...

    def close(self) -> None:
        """Give the weights' memory back. Closing twice is allowed."""
        ...


@runtime_checkable
class Batching(Protocol):
    """An engine that computes several sessions in one forward pass."""

    def advance(self, steps: Sequence[tuple[Any, Sequence[int], int | None]]) -> list[Logits]:
        """Append ids to several sessions of this engine.

        Args:
            steps: A session, its ids, and for how many of them, the last ones, logits are wanted: None for all.

        Returns:
            For each step float32 logits `[outputs, vocab]`.
        """
        ...


@runtime_checkable
class Tokenizing(Protocol):
    """An engine whose model files hold the tokenizer as well."""

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer and chat template."""
        ...
