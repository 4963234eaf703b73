"""Cutting what is appended to several sequences into forward passes over the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.kernels.cpu import NO_ADAPTER

if TYPE_CHECKING:
    from edgereason.engines.native_session import NativeSession

MAX_BATCHED_TOKENS = 256
"""Maximum tokens per forward pass. More would not be faster, and take more memory."""

Ids = npt.NDArray[np.int64]


class SequenceStep(NamedTuple):
    """What to append to a session in `NativeEngine.advance`; a plain tuple does as well."""

    session: NativeSession
    ids: Sequence[int]
    outputs: int | None = 1
    """For how many of the ids, the last ones, logits are wanted: None for all."""


class Chunk(NamedTuple):
    """The part of a step that one forward pass computes."""

    step: int
    ids: Ids
    adapter: int | None
    outputs: int


def kernel_index(adapter: int | None) -> int:
    """An adapter's index as the kernels know it."""
    return NO_ADAPTER if adapter is None else adapter


def forward_passes(steps: list[SequenceStep], tokens: list[Ids], base_tokens: list[int]) -> Iterator[list[Chunk]]:
    """The steps in forward passes of at most `MAX_BATCHED_TOKENS` tokens, those of one adapter beside each other.

    Args:
        steps: What to append.
        tokens: The ids of each step.
        base_tokens: How many of each step's ids, the first ones, the base alone computes: these come in earlier
            forward passes than the ids that follow them.
    """
    if not any(base_tokens) and 0 < sum(map(len, tokens)) <= MAX_BATCHED_TOKENS:  # nothing has to be cut
        whole = [_chunk(index, steps[index], ids, 0, False) for index, ids in enumerate(tokens)]
        yield sorted(whole, key=_by_adapter)
        return
    split = [index for index, count in enumerate(base_tokens) if 0 < count < len(tokens[index])]
    for indices, rest in ((range(len(steps)), False), (split, True)):
        chunks = [_chunk(index, steps[index], tokens[index], base_tokens[index], rest) for index in indices]
        yield from _filled(sorted(chunks, key=_by_adapter))


def _by_adapter(chunk: Chunk) -> int:
    return kernel_index(chunk.adapter)


def _chunk(index: int, step: SequenceStep, ids: Ids, base_tokens: int, rest: bool) -> Chunk:
    """A step's ids of one adapter: all where none or all are the base's, else the base's or the `rest`."""
    outputs = len(ids) if step.outputs is None else step.outputs
    if not base_tokens:
        return Chunk(index, ids, step.session.adapter, outputs)
    if rest:
        return Chunk(index, ids[base_tokens:], step.session.adapter, min(outputs, len(ids) - base_tokens))
    return Chunk(index, ids[:base_tokens], None, max(0, outputs - (len(ids) - base_tokens)))


def _filled(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks cut again, so that every forward pass but the last one is full."""
    batch: list[Chunk] = []
    room = MAX_BATCHED_TOKENS
    for index, ids, adapter, wanted in chunks:
        start = 0
        while start < len(ids):
            part = ids[start : start + room]
            start += len(part)
            outputs = min(max(wanted - (len(ids) - start), 0), len(part))
            batch.append(Chunk(index, part, adapter, outputs))
            room -= len(part)
            if room == 0:
                yield batch
                batch, room = [], MAX_BATCHED_TOKENS
    if batch:
        yield batch
