"""The engine `llama.cpp`: GGUF files through llama-cpp-python's low-level API.

A session is a llama.cpp context with a float16 KV cache. Contexts cost milliseconds and memory to make, so a few are
kept for the sessions that follow.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgereason.checkpoints.gguf_header import check_header
from edgereason.checkpoints.gguf_tokenizer import GgufTokenizer
from edgereason.checkpoints.llama_library import complaints, llama_library
from edgereason.engines.base import Logits
from edgereason.engines.checks import (
    check_fits,
    check_truncation,
    checked_capacity,
    checked_ids,
    closed_engine,
    closed_session,
    unknown_adapter,
)
from edgereason.engines.probe import require
from edgereason.errors import BundleError, EngineError
from edgereason.hardware import fitting_threads

_BATCH = 512
"""Maximum tokens per forward pass (`n_batch`); a longer prompt goes in pieces."""

_CONTEXT_STEP = 256

_SPARE_CONTEXTS = 2


class LlamaCppEngine:
    """A GGUF model, mapped from disk. Safe to use from several threads, each with sessions of its own.

    Args:
        path: A `.gguf` file, or a stage's directory that holds `model.gguf`.
        threads: Threads per computation; None for one per physical core.
        gpu_layers: Layers that are computed on a GPU, where this build of llama.cpp can; None for all.

    Raises:
        BundleError: the file is missing, truncated or damaged, or of an architecture that this llama.cpp lacks.
        EngineError: llama-cpp-python is not installed, or does not work on this machine.
    """

    name = "llama.cpp"
    token_cost = 0.1

    def __init__(self, path: Path, threads: int | None = None, gpu_layers: int | None = None) -> None:
        require(self.name)  # before anything of the library is loaded here: even that can end the process
        self._llama = llama_library()
        file = path / "model.gguf" if path.is_dir() else path
        check_header(file)
        self._file = file
        self._threads = threads or fitting_threads()
        self._model = self._load(file, gpu_layers)
        vocabulary = self._llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = self._llama.llama_vocab_n_tokens(vocabulary)
        self.context_length: int = self._llama.llama_model_n_ctx_train(self._model)
        self._adapters: list[Any] = []  # freed with the model
        # Reentrant: a forgotten stream is closed by the garbage collector, in whatever its thread is doing then.
        self._lock = threading.RLock()
        self._spare: list[tuple[int, Any]] = []  # (capacity, context)
        self._in_use = 0
        self._closed = False

    def _load(self, file: Path, gpu_layers: int | None) -> Any:
        params = self._llama.llama_model_default_params()
        if gpu_layers is not None:
            params.n_gpu_layers = gpu_layers
        with complaints() as errors:
            model = self._llama.llama_model_load_from_file(os.fsencode(file), params)
        if not model:
            reason = errors[0] if errors else "no reason given"
            raise BundleError(
                f"{file} cannot be loaded by llama.cpp: {reason}.",
                "Export the model again, or copy it again from its source.",
            )
        return model

    def tokenizer(self) -> GgufTokenizer:
        """The tokenizer inside the file."""
        return GgufTokenizer(self._llama, self._model, self._file)

    def load_adapter(self, path: Path) -> int:
        """Load a GGUF LoRA adapter, or the `adapter.gguf` of a directory; see `edgereason.engines.base.Engine`."""
        file = path / "adapter.gguf" if path.is_dir() else path
        check_header(file, adapter=True)
        with self._lock, complaints() as errors:
            if self._closed:
                raise closed_engine()
            adapter = self._llama.llama_adapter_lora_init(self._model, os.fsencode(file))
            if not adapter:
                reason = errors[0] if errors else "no reason given"
                raise BundleError(
                    f"{file} cannot be used with this model: {reason}.",
                    "Export the bundle again: adapter and base have to be of one model.",
                )
            self._adapters.append(adapter)
            return len(self._adapters) - 1

    def session(self, capacity: int | None = None, adapter: int | None = None) -> LlamaCppSession:
        """Start an empty sequence; see `edgereason.engines.base.Engine`."""
        if adapter is not None and adapter not in range(len(self._adapters)):
            raise unknown_adapter(adapter, "load_adapter() returns the index of one.")
        capacity = checked_capacity(capacity, self.context_length)
        with self._lock:
            if self._closed:
                raise closed_engine()
            fitting = sorted(spare for spare in self._spare if spare[0] >= capacity)
            if fitting:
                self._spare.remove(fitting[0])
            self._in_use += 1
        room, context = fitting[0] if fitting else self._new_context(capacity)
        self._use_adapter(context, adapter)
        return LlamaCppSession(self, context, room, capacity)

    def _new_context(self, capacity: int) -> tuple[int, Any]:
        params = self._llama.llama_context_default_params()
        # llama.cpp rounds contexts up. Rounded here, a batch holds as much as the context does for later sessions.
        params.n_ctx = -(-max(capacity, 1) // _CONTEXT_STEP) * _CONTEXT_STEP
        params.n_batch = params.n_ubatch = min(_BATCH, params.n_ctx)
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        if not self._llama.llama_supports_gpu_offload():
            # On a CPU, llama.cpp's flash attention sums in float16, which more than doubles the logits' error.
            params.flash_attn_type = self._llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with complaints() as errors:
            context = self._llama.llama_init_from_model(self._model, params)
        if not context:
            with self._lock:
                self._in_use -= 1
            reason = errors[0] if errors else "no reason given"
            raise EngineError(
                f"llama.cpp cannot make a context of {capacity:,} tokens: {reason}.",
                "Close other programs, or ask for fewer tokens.",
            )
        return self._llama.llama_n_ctx(context), context

    def _use_adapter(self, context: Any, adapter: int | None) -> None:
        chosen = [] if adapter is None else [self._adapters[adapter]]
        adapters, scales = (ctypes.POINTER(ctypes.c_void_p) * 1)(*chosen), (ctypes.c_float * 1)(1.0)
        if self._llama.llama_set_adapters_lora(context, adapters, len(chosen), scales) != 0:
            raise EngineError("llama.cpp cannot use this adapter.", "Export the bundle again with --layout merged.")

    def give_back(self, room: int, context: Any) -> None:
        """Take the context of a closed session, for the next one or to free it."""
        with self._lock:
            self._in_use -= 1
            keep = not self._closed and len(self._spare) < _SPARE_CONTEXTS
            if keep:
                self._llama.llama_memory_clear(self._llama.llama_get_memory(context), False)
                self._spare.append((room, context))
        if not keep:
            self._llama.llama_free(context)
        self._free_when_idle()

    def close(self) -> None:
        """Give the memory back, when the last session is closed. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, []
        for _, context in spare:
            self._llama.llama_free(context)
        self._free_when_idle()

    def _free_when_idle(self) -> None:
        with self._lock:
            idle = self._closed and self._in_use == 0
            model, self._model = (self._model, None) if idle else (None, self._model)
        if model is not None:
            self._llama.llama_model_free(model)


class LlamaCppSession:
    """One sequence in a context of its own; see `edgereason.engines.base.Session`."""

    def __init__(self, engine: LlamaCppEngine, context: Any, room: int, capacity: int) -> None:
        self.length = 0
        self._engine = engine
        self._context = context
        self._room = room
        self._capacity = capacity

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids`; see `edgereason.engines.base.Session`."""
        if self._context is None:
            raise closed_session()
        tokens = checked_ids(ids, self._engine.vocab_size).astype(np.int32)
        check_fits(self.length + len(ids), self._capacity)
        pieces = [self._decode(tokens[at : at + _BATCH], every) for at in range(0, len(tokens), _BATCH)]
        return np.concatenate(pieces) if every else pieces[-1]

    def _decode(self, tokens: np.ndarray[Any, np.dtype[np.int32]], every: bool) -> Logits:
        """Compute up to one batch of tokens: logits `[1, vocab]`, or `[len(tokens), vocab]` with `every`."""
        llama = self._engine._llama
        batch = llama.llama_batch_get_one(tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(tokens))
        wanted = np.ones(len(tokens), dtype=np.int8)
        if every:
            batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        with complaints() as errors:
            status = llama.llama_decode(self._context, batch)
        if status != 0:
            reason = errors[-1] if errors else f"status {status}"
            raise EngineError(f"llama.cpp could not compute {len(tokens)} tokens: {reason}.")
        self.length += len(tokens)
        rows = len(tokens) if every else 1
        shape = (rows, self._engine.vocab_size)
        borrowed = np.ctypeslib.as_array(llama.llama_get_logits(self._context), shape)
        logits: Logits = borrowed.astype(np.float32)  # a copy, of numpy's own type: ctypes' spells its byte order out
        return logits

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; see `edgereason.engines.base.Session`."""
        if self._context is None:
            raise closed_session()
        check_truncation(length, self.length)
        llama = self._engine._llama
        if not llama.llama_memory_seq_rm(llama.llama_get_memory(self._context), 0, length, -1):
            raise EngineError("llama.cpp cannot cut this model's cache back.", "Use a model with plain attention.")
        self.length = length

    def close(self) -> None:
        """Give the context back. Closing twice is allowed."""
        context, self._context = self._context, None
        if context is not None:
            self._engine.give_back(self._room, context)
