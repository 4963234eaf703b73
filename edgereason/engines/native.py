"""The engine `native`: our own kernels, on the model files as they are mapped from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import edgereason.kernels.cpu as cpu
from edgereason import models
from edgereason.engines.base import Logits
from edgereason.engines.cpu import default_threads
from edgereason.errors import ContextError, EngineError
from edgereason.weights import Weights

_CHUNK = 512
"""Tokens of a prompt that are computed at once. More would not be faster, and take more memory."""


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
        self._family = models.family(weights.config)
        self._model: Any = self._family.load(cpu, weights)
        cpu.set_threads(threads or default_threads())
        # A model in full precision is the reference, so its cache is too.
        self._cache_type = np.float16 if weights.packed else np.float32
        config = self._model.config
        self.vocab_size: int = config.vocab_size
        self.context_length: int = config.max_position_embeddings

    def session(self, capacity: int | None = None) -> NativeSession:
        """Start an empty sequence; see `edgereason.engines.base.Engine`."""
        capacity = self.context_length if capacity is None else capacity
        if capacity > self.context_length:
            raise ContextError(
                f"{capacity:,} tokens are asked for, the model's context holds {self.context_length:,}.",
                "Ask a shorter question, or ask for fewer new tokens.",
            )
        config = self._open_model().config
        caches = [
            cpu.KVCache(config.num_key_value_heads, config.head_dim, self._cache_type)
            for _ in range(config.num_hidden_layers)
        ]
        return NativeSession(self, caches, capacity)

    def forward(self, ids: Sequence[int], caches: list[cpu.KVCache], position: int, every: bool) -> Logits:
        """Logits after `ids`, whose keys and values go into the caches from `position` on.

        float32 `[1, vocab]`, or with `every` `[len(ids), vocab]`.
        """
        model = self._open_model()
        tokens = np.asarray(ids, np.int64)
        pieces: list[Logits] = []
        for start in range(0, len(tokens), _CHUNK):
            chunk = tokens[start : start + _CHUNK]
            pieces.append(self._family.forward(self._ops, model, chunk, caches, position + start, every))
        return np.concatenate(pieces) if every else pieces[-1]

    def close(self) -> None:
        """Let go of the weights. Closing twice is allowed."""
        self._model = None

    def _open_model(self) -> Any:
        if self._model is None:
            raise EngineError("This engine is closed.", "Load the model again.")
        return self._model


class NativeSession:
    """One sequence and its KV cache; see `edgereason.engines.base.Session`."""

    def __init__(self, engine: NativeEngine, caches: list[cpu.KVCache], capacity: int) -> None:
        self.length = 0
        self._engine = engine
        self._caches = caches
        self._capacity = capacity

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids`; see `edgereason.engines.base.Session`."""
        if not self._caches:
            raise EngineError("This session is closed.", "Start another one.")
        if len(ids) == 0:
            raise ValueError("ids is empty")
        if self.length + len(ids) > self._capacity:
            raise ContextError(
                f"{self.length + len(ids):,} tokens do not fit into a session of {self._capacity:,}.",
                "Start a session with more capacity.",
            )
        logits = self._engine.forward(ids, self._caches, self.length, every)
        self.length += len(ids)
        return logits

    def close(self) -> None:
        """Give the cache's memory back. Closing twice is allowed."""
        self._caches = []
