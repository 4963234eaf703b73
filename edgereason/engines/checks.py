"""What all engines refuse, in the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgereason.errors import ContextError, EngineError, UsageError


def checked_capacity(capacity: int | None, context_length: int) -> int:
    """The capacity of a new session, in tokens; None stands for the model's context.

    Raises:
        ContextError: it exceeds the model's context.
    """
    if capacity is None:
        return context_length
    if capacity > context_length:
        raise ContextError(
            f"{capacity:,} tokens are asked for, the model's context holds {context_length:,}.",
            "Ask a shorter question, or ask for fewer new tokens.",
        )
    return capacity


def check_fits(length: int, capacity: int) -> None:
    """Raise `ContextError` where `length` tokens exceed a session's capacity."""
    if length > capacity:
        raise ContextError(
            f"{length:,} tokens do not fit into a session of {capacity:,}.", "Start a session with more capacity."
        )


def checked_ids(ids: Sequence[int], vocab_size: int) -> npt.NDArray[np.int64]:
    """Token ids to append to a session, int64 `[T]`.

    Raises:
        ValueError: there are none, or one lies outside of the vocabulary.
    """
    tokens = np.asarray(ids, dtype=np.int64)
    if len(tokens) == 0:
        raise ValueError("ids is empty")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"ids from {tokens.min()} to {tokens.max()}, of a vocabulary of {vocab_size}")
    return tokens


def check_truncation(length: int, present: int) -> None:
    """Raise `ValueError` where a session of `present` tokens cannot be cut back to `length`."""
    if not 0 <= length <= present:
        raise ValueError(f"length is {length}, of {present} tokens")


def unknown_adapter(adapter: int, cure: str) -> UsageError:
    """For an adapter index that is not one of a loaded adapter."""
    return UsageError(f"There is no adapter {adapter}.", cure)


def closed_session() -> EngineError:
    """For a session that is used after it was closed."""
    return EngineError("This session is closed.", "Start another one.")


def closed_engine() -> EngineError:
    """For an engine that is used after it was closed."""
    return EngineError("This engine is closed.", "Load the model again.")
