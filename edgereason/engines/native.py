"""The engine `native`: our own kernels, on the model files as they are mapped from disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import edgereason.kernels.cpu as cpu
from edgereason import models
from edgereason.checkpoints.lora import LoraAdapter, read_adapter
from edgereason.checkpoints.weights import Weights
from edgereason.engines import native_state as state
from edgereason.engines.base import Logits
from edgereason.engines.native_adapters import attach_adapter, detach_adapter
from edgereason.engines.native_session import NativeSession
from edgereason.errors import BundleError, ContextError, EngineError, UsageError
from edgereason.hardware import default_threads
from edgereason.models import attention
from edgereason.models.rope import Rope

_CHUNK = 256
"""Tokens that are computed at once. More would not be faster, and take more memory."""

_CACHED = 16 << 20
"""Bytes of weights that stay in a processor's caches from one pass to the next."""

CACHE_TYPES = ("f32", "f16", "int8")


class Step(NamedTuple):
    """What to append to a session in `NativeEngine.advance`; a plain tuple does as well."""

    session: NativeSession
    ids: Sequence[int]
    outputs: int | None = 1
    """For how many of the ids, the last ones, logits are wanted: None for all."""


class _Piece(NamedTuple):
    """The part of a step that one pass computes."""

    step: int
    ids: npt.NDArray[np.int64]
    adapter: int | None
    outputs: int


class NativeEngine:
    """A model on the CPU. Safe to use from several threads, each with sessions of its own.

    Args:
        path: A stage's directory, a Hugging Face directory (float weights, single or sharded), or its `.safetensors`.
        threads: Threads per computation, for the whole process; None for one per physical core.

    Raises:
        BundleError: the files are missing, damaged, or of an architecture that is not covered.
        EngineError: `EDGEREASON_ISA` names an instruction set that this machine lacks.
    """

    name = "native"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._ops: ModuleType = cpu
        try:
            cpu.isa()
        except ValueError as error:
            raise EngineError(f"EDGEREASON_ISA: {error}.", "Unset it, and the best one is taken.") from error
        weights = Weights(path)
        self._directory = weights.directory
        # One more row costs little beside reading the weights, but more where the processor's caches hold them.
        self.row_cost = 0.1 if weights.nbytes > _CACHED else 0.22
        self._family = models.family(weights.config)
        self._model: Any = self._family.load(cpu, weights)
        self._layers: Any = cpu.Recorder(partial(self._family.layers, cpu, self._model))
        cpu.set_threads(threads or default_threads())
        # A model in full precision is the reference, so its cache and its adapters are too.
        self._exact = not weights.quantized
        self._adapters: dict[int, LoraAdapter] = {}
        self._next_adapter = 0
        # A pass reads all weights, so two at a time would be slower than one after the other.
        self._lock = threading.Lock()
        config = self._model.config
        self.vocab_size: int = config.vocab_size
        self.context_length: int = config.max_position_embeddings

    def session(
        self, capacity: int | None = None, adapter: int | None = None, cache: str | None = None
    ) -> NativeSession:
        """Start an empty sequence; see `edgereason.engines.base.Engine`.

        Args:
            capacity: Most tokens that it can hold; the model's context when None.
            adapter: Index of a loaded adapter, or None for the base alone.
            cache: How keys and values are kept: `f32`, `f16`, or `int8` with a scale per token and head; None for
                `f32` where the weights are floats and `f16` where they are quantized.

        Raises:
            ContextError: `capacity` exceeds `context_length`.
            UsageError: there is no such adapter or kind of cache.
        """
        self._check_adapter(adapter)
        capacity = self._check_context(self.context_length if capacity is None else capacity)
        return NativeSession(self, self._new_cache(cache), capacity, adapter)

    def restore(self, data: bytes, capacity: int | None = None) -> NativeSession:
        """A session with the tokens, keys and values that `NativeSession.save` wrote; its adapter has to be loaded.

        Args:
            data: What `save` returned.
            capacity: Most tokens that it can hold; as before when None.

        Raises:
            BundleError: the bytes are truncated, altered, of another model, adapter or version, or of a capacity for
                which the model turns its keys by other angles.
            ContextError: `capacity` exceeds `context_length`, or the tokens exceed `capacity`.
        """
        found = state.State.from_bytes(data)
        if found.model != self._fingerprint or found.cache_type not in CACHE_TYPES:
            raise BundleError("This session's state was computed by another model.", "Compute it again.")
        capacity = found.capacity if capacity is None else capacity
        self._check_angles(found.capacity, capacity)
        session = self.session(capacity, self._adapter_of(found.adapter), found.cache_type)
        self.check_capacity(session, len(found.ids))
        if found.shape != self._cache_shape() or len(found.cache) != session.cache.state_bytes(len(found.ids)):
            raise BundleError("This session's state does not fit the model.", "Compute it again.")
        session.cache.load(found.cache, len(found.ids))
        based = min(found.based, len(found.ids))
        session.take(found.ids, [None] * based + [session.adapter] * (len(found.ids) - based))
        return session

    def load_adapter(self, path: str | Path) -> int:
        """Load a PEFT LoRA adapter, which sessions can use beside others and the base alone.

        Its factors are kept in 16 bits (in full precision as they are), its rows are computed in the same pass over
        the base's weights as all others.

        Returns:
            Its index, for `session(adapter=...)`.

        Raises:
            BundleError: files are missing or damaged, or it was trained on another base.
        """
        adapter = read_adapter(Path(path))
        if max(adapter.invocation, default=0) >= self.vocab_size:
            raise BundleError(
                f"{path} is invoked by {list(adapter.invocation)}, beyond the vocabulary of {self.vocab_size} tokens.",
                f'{adapter.path.name}/adapter_config.json names "{adapter.base}" as its base: open that one.',
            )
        with self._lock:
            index = self._next_adapter
            attach_adapter(self._ops, self._open_model().projections, index, adapter, exact=self._exact)
            self._adapters[index] = adapter
            self._next_adapter += 1
        return index

    def unload_adapter(self, index: int) -> None:
        """Let go of an adapter. Sessions that have it cannot advance any more.

        Raises:
            UsageError: there is none of this index.
        """
        with self._lock:
            self._check_adapter(index)
            detach_adapter(self._ops, self._open_model().projections, index, self._adapters.pop(index))

    def row_adapters(self, adapter: int | None, ids: Sequence[int]) -> list[int | None]:
        """Which adapter computes each of `ids` in a sequence that begins with them.

        That is `adapter` for all of them, unless it is an activated one (PEFT's `alora_invocation_tokens`, arXiv
        2504.12397): it computes what follows its last invocation, and the base alone what comes before.
        """
        self._check_adapter(adapter)
        based = 0 if adapter is None else self._activation(adapter, ids)
        return [None] * based + [adapter] * (len(ids) - based)

    def advance(self, steps: Sequence[Step | tuple[NativeSession, Sequence[int], int | None]]) -> list[Logits]:
        """Append ids to several sessions, each of which may be of any length, in common passes over the weights.

        Args:
            steps: Sessions, each at most once, and at least one id for each.

        Returns:
            For each step float32 logits `[outputs, vocab]` of what follows the last `outputs` of its ids.

        Raises:
            ContextError: a sequence would exceed its session's capacity.
            EngineError: a session is closed, or its adapter is no longer loaded.
            ValueError: a step has no ids, or ids outside of the vocabulary. Whatever is raised, and when a call is
                interrupted, all sessions are as before.
        """
        work = [Step(*step) for step in steps]
        tokens = [np.asarray(step.ids, np.int64) for step in work]
        self._check_steps(work)
        lengths = [step.session.length for step in work]
        based = [self._based(step) for step in work]
        results: list[list[Logits]] = [[] for _ in work]
        try:
            for pieces in _passes(work, tokens, based):
                for piece, logits in zip(pieces, self._compute(work, pieces), strict=True):
                    results[piece.step].append(logits)
        except BaseException:
            for step, length in zip(work, lengths, strict=True):
                step.session.cache.truncate(length)
            raise
        for step, ids, count in zip(work, tokens, based, strict=True):
            step.session.take(ids.tolist(), [None] * count + [step.session.adapter] * (len(ids) - count))
        return [found[0] if len(found) == 1 else np.concatenate(found) for found in results]

    def check_capacity(self, session: NativeSession, length: int) -> None:
        """Raise `ContextError` where a session cannot hold `length` tokens."""
        if length > session.capacity:
            raise ContextError(
                f"{length:,} tokens do not fit into a session of {session.capacity:,}.",
                "Start a session with more capacity.",
            )

    def describe(self, session: NativeSession, cache: npt.NDArray[np.uint8]) -> state.State:
        """A session's state, given its cache's bytes."""
        kind, shape, adapters = session.cache.type, self._cache_shape(), session.adapters
        based = next((index for index, adapter in enumerate(adapters) if adapter is not None), len(adapters))
        digest = self._digest(session.adapter)
        return state.State(self._fingerprint, digest, kind, shape, session.capacity, based, session.ids, cache)

    def close(self) -> None:
        """Let go of the weights. Closing twice is allowed."""
        self._model, self._layers = None, None
        self._adapters = {}

    def _compute(self, work: list[Step], pieces: list[_Piece]) -> list[Logits]:
        """One pass: the logits of each piece."""
        with self._lock:
            model = self._open_model()
            sessions = [work[piece.step].session for piece in pieces]
            rows = self._ops.Rows(
                [
                    cpu.Segment(session.cache, len(ids), _index(adapter), outputs, session.capacity)
                    for session, (_, ids, adapter, outputs) in zip(sessions, pieces, strict=True)
                ]
            )
            ids = pieces[0].ids if len(pieces) == 1 else np.concatenate([piece.ids for piece in pieces])
            x = self._layers(ids, rows, attention.angles(model.config, rows))
            wanted = x if len(rows.outputs) == len(x) else x[rows.outputs]
            logits: Logits = self._family.head(self._ops, model, wanted)
            rows.commit()
        ends = accumulate(piece.outputs for piece in pieces)
        return [logits[end - piece.outputs : end] for piece, end in zip(pieces, ends, strict=True)]

    def _check_steps(self, work: list[Step]) -> None:
        if len({id(step.session) for step in work}) != len(work):
            raise ValueError("a session is in two steps")
        for session, ids, outputs in work:
            session.cache  # noqa: B018 - raises where the session is closed
            self._digest(session.adapter)
            if len(ids) == 0:
                raise ValueError("ids is empty")
            if outputs is not None and not 0 <= outputs <= len(ids):
                raise ValueError(f"outputs is {outputs}, for {len(ids)} ids")
            self.check_capacity(session, session.length + len(ids))

    def _based(self, step: Step) -> int:
        """How many of a step's ids the base alone computes, because they come before its adapter's invocation."""
        session, ids, _ = step
        invocation = () if session.adapter is None else self._adapters[session.adapter].invocation
        if session.adapter is None or not invocation:
            return 0
        if session.activation is not None:
            return min(max(0, session.activation - session.length), len(ids))
        if session.activated:
            return 0
        # An invocation may have begun in what was computed before.
        behind = session.ids[max(0, session.length - len(invocation) + 1) :]
        return max(0, self._activation(session.adapter, [*behind, *ids]) - len(behind))

    def _activation(self, adapter: int, ids: Sequence[int]) -> int:
        found = self._adapters[adapter]
        return found.activation(ids) if found.invocation else 0

    def check_fork(self, session: NativeSession, capacity: int, length: int) -> None:
        """Raise `BundleError` or `ContextError` where a session's keys are no use to one of another capacity."""
        self._check_angles(session.capacity, capacity)
        if self._check_context(capacity) < length:
            raise ContextError(
                f"{length:,} tokens do not fit into a session of {capacity:,}.", "Give it more capacity."
            )

    def _check_angles(self, computed: int, wanted: int) -> None:
        if computed == wanted:
            return
        if any(not np.array_equal(rope.frequencies(computed), rope.frequencies(wanted)) for rope in self._ropes()):
            raise BundleError(
                f"This session's state was computed for up to {computed:,} tokens, which angles depend on.",
                "Restore it without another capacity.",
            )

    def _check_adapter(self, adapter: int | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            raise UsageError(f"There is no adapter {adapter}.", "load_adapter() returns the index of one.")

    def _digest(self, adapter: int | None) -> bytes:
        if adapter is None:
            return state.NO_ADAPTER
        if adapter not in self._adapters:
            raise EngineError(f"The session's adapter {adapter} is not loaded.", "Load it again.")
        return self._adapters[adapter].digest

    def _adapter_of(self, digest: bytes) -> int | None:
        if digest == state.NO_ADAPTER:
            return None
        for index, adapter in self._adapters.items():
            if adapter.digest == digest:
                return index
        raise BundleError("This session's state needs an adapter that is not loaded.", "Load the adapter first.")

    def _check_context(self, capacity: int) -> int:
        if capacity > self.context_length:
            raise ContextError(
                f"{capacity:,} tokens are asked for, the model's context holds {self.context_length:,}.",
                "Ask a shorter question, or ask for fewer new tokens.",
            )
        return capacity

    def _new_cache(self, kind: str | None) -> cpu.KVCache:
        if kind is not None and kind not in CACHE_TYPES:
            raise UsageError(f"There is no kind of cache {kind!r}.", f"Choose one of {', '.join(CACHE_TYPES)}.")
        cache: cpu.KVCache = self._ops.KVCache(*self._cache_shape(), kind or ("f32" if self._exact else "f16"))
        return cache

    def _cache_shape(self) -> tuple[int, int, int]:
        config = self._open_model().config
        return config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    def _ropes(self) -> Sequence[Rope]:
        ropes: Sequence[Rope] = self._open_model().config.ropes
        return ropes

    @cached_property
    def _fingerprint(self) -> bytes:
        return state.fingerprint([self._directory / "config.json", *self._directory.glob("*.safetensors")])

    def _open_model(self) -> Any:
        if self._model is None:
            raise EngineError("This engine is closed.", "Load the model again.")
        return self._model


def _index(adapter: int | None) -> int:
    return cpu.NO_ADAPTER if adapter is None else adapter


def _passes(work: list[Step], tokens: list[npt.NDArray[np.int64]], based: list[int]) -> Iterator[list[_Piece]]:
    """The steps cut into passes of at most `_CHUNK` rows, rows of one adapter beside each other.

    Ids that the base alone computes, the first `based` of a step, come in earlier passes than those that follow them.
    """
    if not any(based) and 0 < sum(map(len, tokens)) <= _CHUNK:  # nothing has to be cut
        parts = [_part(index, work[index], ids, 0, False) for index, ids in enumerate(tokens)]
        yield sorted(parts, key=lambda part: _index(part.adapter))
        return
    split = [range(len(work)), [index for index, count in enumerate(based) if 0 < count < len(tokens[index])]]
    for indices, rest in zip(split, (False, True), strict=True):
        parts = [_part(index, work[index], tokens[index], based[index], rest) for index in indices]
        yield from _filled(sorted(parts, key=lambda part: _index(part.adapter)))


def _part(index: int, step: Step, ids: npt.NDArray[np.int64], based: int, rest: bool) -> _Piece:
    """A step's ids of one adapter: all where none or all are the base's, else the base's or the `rest`."""
    outputs = len(ids) if step.outputs is None else step.outputs
    if not based:
        return _Piece(index, ids, step.session.adapter, outputs)
    if rest:
        return _Piece(index, ids[based:], step.session.adapter, min(outputs, len(ids) - based))
    return _Piece(index, ids[:based], None, max(0, outputs - (len(ids) - based)))


def _filled(parts: list[_Piece]) -> Iterator[list[_Piece]]:
    """The parts in passes of `_CHUNK` rows, the last one of what is left."""
    pieces: list[_Piece] = []
    room = _CHUNK
    for index, ids, adapter, wanted in parts:
        start = 0
        while start < len(ids):
            piece = ids[start : start + room]
            start += len(piece)
            outputs = min(max(wanted - (len(ids) - start), 0), len(piece))
            pieces.append(_Piece(index, piece, adapter, outputs))
            room -= len(piece)
            if room == 0:
                yield pieces
                pieces, room = [], _CHUNK
    if pieces:
        yield pieces
