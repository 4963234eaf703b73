"""The engine `native`: our own kernels, on the model files as they are mapped from disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import edgereason.kernels.cpu as cpu
from edgereason import models
from edgereason.checkpoints.lora import read_adapter
from edgereason.checkpoints.weights import Weights
from edgereason.engines.base import Logits
from edgereason.engines.checks import check_fits, checked_capacity, closed_engine
from edgereason.engines.forward_passes import Chunk, SequenceStep, forward_passes, kernel_index
from edgereason.engines.native_adapters import NativeAdapters
from edgereason.engines.native_session import NativeSession
from edgereason.engines.saved_session import SavedSession, weights_fingerprint
from edgereason.engines.sequence_state import KVCacheState, SequenceState
from edgereason.errors import BundleError, EngineError, UsageError
from edgereason.hardware import fitting_threads
from edgereason.models import attention
from edgereason.models.rotary_embedding import Rope

_CACHED_BYTES = 16 << 20
"""Weights of this size stay in a processor's caches from one forward pass to the next."""

CACHE_TYPES = ("f32", "f16", "int8")


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
        # One more token costs little beside reading the weights, but more where the processor's caches hold them.
        self.token_cost = 0.1 if weights.nbytes > _CACHED_BYTES else 0.22
        self._family = models.family(weights.config)
        self._model: Any = self._family.load(cpu, weights)
        self._layers: Any = cpu.Recorder(partial(self._family.layers, cpu, self._model))
        cpu.set_threads(threads or fitting_threads())
        # A model in full precision is the reference, so its cache and its adapters are too.
        self._exact = not weights.quantized
        # A forward pass reads all weights, so two at a time would be slower than one after the other.
        self._lock = threading.Lock()
        config = self._model.config
        self.vocab_size: int = config.vocab_size
        self.context_length: int = config.max_position_embeddings
        self._adapters = NativeAdapters(cpu, self._model.projections, self.vocab_size, self._exact)

    def session(
        self, capacity: int | None = None, adapter: int | None = None, cache: str | None = None
    ) -> NativeSession:
        """Start an empty sequence; see `edgereason.engines.base.Engine`.

        Args:
            capacity: Maximum tokens; the model's context when None.
            adapter: Index of a loaded adapter, or None for the base alone.
            cache: Type of the KV cache: `f32`, `f16`, or `int8` with a scale per token and head; None for `f32` where
                the weights are floats and `f16` where they are quantized.

        Raises:
            ContextError: `capacity` exceeds `context_length`.
            UsageError: there is no such adapter or cache type.
        """
        self._adapters.check(adapter)
        capacity = checked_capacity(capacity, self.context_length)
        return NativeSession(self, self._new_state(cache), capacity, adapter)

    def restore(self, data: bytes, capacity: int | None = None) -> NativeSession:
        """The session that `NativeSession.save` wrote; its adapter has to be loaded.

        Args:
            data: What `save` returned.
            capacity: Maximum tokens; as before when None.

        Raises:
            BundleError: the bytes are truncated, altered, of another model, adapter or version, or of a capacity for
                which the model's RoPE frequencies are others.
            ContextError: `capacity` exceeds `context_length`, or the tokens exceed `capacity`.
        """
        found = SavedSession.from_bytes(data)
        if found.model != self._fingerprint or found.cache_type not in CACHE_TYPES:
            raise BundleError("The saved session was computed by another model.", "Compute it again.")
        capacity = found.capacity if capacity is None else capacity
        self._check_rope(found.capacity, capacity)
        session = self.session(capacity, self._adapters.of_digest(found.adapter), found.cache_type)
        length = len(found.ids)
        check_fits(length, capacity)
        try:
            if found.shape != self._cache_shape():
                raise ValueError(f"a KV cache of the shape {found.shape}")
            session.state.load(found.state, length)
        except ValueError as error:
            raise BundleError(f"The saved session does not fit the model: {error}.", "Compute it again.") from error
        base_tokens = min(found.base_tokens, length)
        session.take(found.ids, [None] * base_tokens + [session.adapter] * (length - base_tokens))
        return session

    def load_adapter(self, path: str | Path) -> int:
        """Load a PEFT LoRA adapter, which sessions can use beside others and the base alone.

        Its factors are kept in 16 bits (in full precision as they are), its tokens are computed in the same forward
        pass over the base's weights as all others.

        Returns:
            Its index, for `session(adapter=...)`.

        Raises:
            BundleError: files are missing or damaged, or it was trained on another base.
        """
        adapter = read_adapter(Path(path))
        with self._lock:
            self._open_model()
            return self._adapters.attach(adapter)

    def unload_adapter(self, index: int) -> None:
        """Let go of an adapter. Sessions that have it cannot advance any more.

        Raises:
            UsageError: there is none of this index.
        """
        with self._lock:
            self._adapters.detach(index)

    def token_adapters(self, adapter: int | None, ids: Sequence[int]) -> list[int | None]:
        """Which adapter computes each of `ids` in a sequence that begins with them.

        That is `adapter` for all of them, unless it is an activated one (PEFT's `alora_invocation_tokens`, arXiv
        2504.12397): it computes what follows its last invocation, and the base alone what comes before.
        """
        self._adapters.check(adapter)
        base_tokens = self._adapters.base_tokens(adapter, ids)
        return [None] * base_tokens + [adapter] * (len(ids) - base_tokens)

    def advance(self, steps: Sequence[SequenceStep | tuple[NativeSession, Sequence[int], int | None]]) -> list[Logits]:
        """Append ids to several sessions, each of which may be of any length, in common forward passes.

        Args:
            steps: Sessions, each at most once, and at least one id for each.

        Returns:
            For each step float32 logits `[outputs, vocab]` of what follows the last `outputs` of its ids.

        Raises:
            ContextError: a sequence would exceed its session's capacity.
            EngineError: a session is closed, or its adapter is no longer loaded.
            ValueError: a step has no ids, or ids outside of the vocabulary. Whatever is raised, and when a call is
                interrupted, all sessions are as before, or as far before as their states can be cut back to.
        """
        work = [SequenceStep(*step) for step in steps]
        tokens = [np.asarray(step.ids, np.int64) for step in work]
        self._check_steps(work)
        lengths = [step.session.length for step in work]
        base_tokens = [self._base_tokens(step) for step in work]
        results: list[list[Logits]] = [[] for _ in work]
        try:
            for chunks in forward_passes(work, tokens, base_tokens):
                for chunk, logits in zip(chunks, self._forward(work, chunks), strict=True):
                    results[chunk.step].append(logits)
        except BaseException:
            for step, length in zip(work, lengths, strict=True):
                step.session.rewind(length)
            raise
        for step, ids, count in zip(work, tokens, base_tokens, strict=True):
            step.session.take(ids.tolist(), [None] * count + [step.session.adapter] * (len(ids) - count))
        return [found[0] if len(found) == 1 else np.concatenate(found) for found in results]

    def describe(self, session: NativeSession) -> SavedSession:
        """All that has to be saved of a session."""
        adapters = session.adapters
        return SavedSession(
            model=self._fingerprint,
            adapter=self._adapters.digest(session.adapter),
            cache_type=session.state.cache.type,
            shape=self._cache_shape(),
            capacity=session.capacity,
            base_tokens=next((at for at, adapter in enumerate(adapters) if adapter is not None), len(adapters)),
            ids=session.ids,
            state=session.state.save(),
        )

    def close(self) -> None:
        """Let go of the weights. Closing twice is allowed."""
        self._model, self._layers = None, None
        self._adapters.close()

    def _forward(self, work: list[SequenceStep], chunks: list[Chunk]) -> list[Logits]:
        """One forward pass: the logits of each chunk."""
        with self._lock:
            model = self._open_model()
            sessions = [work[chunk.step].session for chunk in chunks]
            rows = self._ops.Rows(
                [
                    cpu.Segment(session.state.cache, len(ids), kernel_index(adapter), outputs, session.capacity)
                    for session, (_, ids, adapter, outputs) in zip(sessions, chunks, strict=True)
                ]
            )
            ids = chunks[0].ids if len(chunks) == 1 else np.concatenate([chunk.ids for chunk in chunks])
            x = self._layers(ids, rows, attention.rotary_embeddings(model.config, rows))
            wanted = x if len(rows.outputs) == len(x) else x[rows.outputs]
            logits: Logits = self._family.head(self._ops, model, wanted)
            rows.commit()
        ends = accumulate(chunk.outputs for chunk in chunks)
        return [logits[end - chunk.outputs : end] for chunk, end in zip(chunks, ends, strict=True)]

    def _check_steps(self, work: list[SequenceStep]) -> None:
        if len({id(step.session) for step in work}) != len(work):
            raise ValueError("a session is in two steps")
        for session, ids, outputs in work:
            session.state  # noqa: B018 - raises where the session is closed
            self._adapters.digest(session.adapter)
            if len(ids) == 0:
                raise ValueError("ids is empty")
            if outputs is not None and not 0 <= outputs <= len(ids):
                raise ValueError(f"outputs is {outputs}, for {len(ids)} ids")
            check_fits(session.length + len(ids), session.capacity)

    def _base_tokens(self, step: SequenceStep) -> int:
        """How many of a step's ids the base computes in the adapter's stead, because they precede its invocation."""
        session, ids, _ = step
        invocation = self._adapters.invocation(session.adapter)
        if not invocation:
            return 0
        if session.activation is not None:
            return min(max(0, session.activation - session.length), len(ids))
        if session.activated:
            return 0
        # An invocation may have begun in what was computed before.
        behind = session.ids[max(0, session.length - len(invocation) + 1) :]
        return max(0, self._adapters.base_tokens(session.adapter, [*behind, *ids]) - len(behind))

    def check_fork(self, session: NativeSession, capacity: int, length: int) -> None:
        """Raise `BundleError` or `ContextError` where a session cannot go on in one of another capacity."""
        self._check_rope(session.capacity, capacity)
        check_fits(length, checked_capacity(capacity, self.context_length))

    def _check_rope(self, computed: int, wanted: int) -> None:
        if computed == wanted:
            return
        if any(not np.array_equal(rope.frequencies(computed), rope.frequencies(wanted)) for rope in self._ropes()):
            raise BundleError(
                f"This session was computed with the RoPE frequencies of {computed:,} tokens, {wanted:,} need others.",
                "Keep its capacity.",
            )

    def _new_state(self, kind: str | None) -> SequenceState:
        if kind is not None and kind not in CACHE_TYPES:
            raise UsageError(f"There is no cache type {kind!r}.", f"Choose one of {', '.join(CACHE_TYPES)}.")
        return KVCacheState(self._ops.KVCache(*self._cache_shape(), kind or ("f32" if self._exact else "f16")))

    def _cache_shape(self) -> tuple[int, int, int]:
        config = self._open_model().config
        return config.num_hidden_layers, config.num_key_value_heads, config.head_dim

    def _ropes(self) -> Sequence[Rope]:
        ropes: Sequence[Rope] = self._open_model().config.ropes
        return ropes

    @cached_property
    def _fingerprint(self) -> bytes:
        return weights_fingerprint([self._directory / "config.json", *self._directory.glob("*.safetensors")])

    def _open_model(self) -> Any:
        if self._model is None:
            raise closed_engine()
        return self._model
