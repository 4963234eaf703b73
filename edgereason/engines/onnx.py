"""The engine `onnx`: graphs of onnxruntime-genai's model builder, run by plain onnxruntime.

A session's key and value buffers are allocated once, for its whole capacity, and bound as both past and present:
GroupQueryAttention then writes new rows where they belong, and copies nothing.

Our export puts a constant `logits_from` into the graph. It is replaced at load so that only the last token's logits are
computed; a second runtime session, with the constant as it was, is made when somebody asks for all of them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
from edgereason.errors import BundleError, EngineError, UsageError
from edgereason.hardware import fitting_threads

_BATCH = 512
"""Maximum tokens per forward pass: bounds the memory for attention scores."""

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxEngine:
    """An ONNX model on the CPU. Safe to use from several threads, each with sessions of its own.

    Args:
        path: A `.onnx` file, or a stage's directory that holds `model.onnx`.
        threads: Threads per computation; None for one per physical core.

    Raises:
        BundleError: a file is missing, truncated or damaged, or is no language model of the builder's kind.
        EngineError: onnxruntime is not installed.
    """

    name = "onnx"
    token_cost = 1.0  # the logits of several rows take a second runtime session, with weights of its own

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._ort = _onnxruntime()
        self._file = path / "model.onnx" if path.is_dir() else path
        self._threads = threads or fitting_threads()
        self._lock = threading.Lock()
        self._last_token = self._ort.OrtValue.ortvalue_from_numpy(np.array([-1], dtype=np.int64))
        if not self._file.is_file():
            raise BundleError(
                f"{self._file} does not exist.", "Give a .onnx file, or a directory that holds model.onnx."
            )
        # every -> the runtime session that computes all logits, or those of the last token
        self._runtimes: dict[bool, Any] = {False: self._load(every=False)}
        try:
            self._read_interface(self._runtimes[False])
        except (KeyError, ValueError, IndexError, TypeError, OSError) as error:
            raise BundleError(
                f"{self._file} is not a language model as onnxruntime-genai's builder makes them ({error}).",
                "Export the model with --format onnx.",
            ) from error

    def _load(self, every: bool) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads spin inside of a computation and sleep between two.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not every:
            options.add_initializer("logits_from", self._last_token)
        try:
            return self._ort.InferenceSession(str(self._file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            reason = str(error).splitlines()[0]
            raise BundleError(
                f"{self._file} cannot be loaded by onnxruntime: {reason}",
                "Export the model again, or copy it and model.onnx.data again from their source.",
            ) from error

    def _read_interface(self, runtime: Any) -> None:
        inputs = {each.name: each for each in runtime.get_inputs()}
        logits = {each.name: each for each in runtime.get_outputs()}["logits"]
        facts = _facts(runtime.get_modelmeta().custom_metadata_map, self._file)
        self.vocab_size = int(logits.shape[2])
        self.context_length = int(facts["context_length"])
        self.logits_type = _TYPES[logits.type]
        self.takes_positions = "position_ids" in inputs
        self.slices_logits = "logits_from" in facts
        # past name -> (present name, key/value heads, head size, type)
        self.cache_layout = {
            name: (name.replace("past_key_values", "present"), int(each.shape[1]), int(facts["head_size"]), each.type)
            for name, each in inputs.items()
            if name.startswith("past_key_values.")
        }
        unknown = set(inputs) - {"input_ids", "attention_mask", "position_ids", *self.cache_layout}
        if unknown or not self.cache_layout:
            raise ValueError(f"its inputs are {', '.join(sorted(inputs))}")

    def runtime(self, every: bool) -> Any:
        """The onnxruntime session that computes the last token's logits or, with `every`, all.

        Raises:
            EngineError: the engine is closed.
        """
        with self._lock:
            if not self._runtimes:
                raise closed_engine()
            which = every and self.slices_logits
            if which not in self._runtimes:
                self._runtimes[which] = self._load(which)
            return self._runtimes[which]

    def load_adapter(self, path: Path) -> int:
        """Raises `UsageError`: this engine runs merged models only."""
        raise UsageError(f"The engine {self.name} has no adapters, such as {path}.", "Merge it into its base instead.")

    def session(self, capacity: int | None = None, adapter: int | None = None) -> OnnxSession:
        """Start an empty sequence; see `edgereason.engines.base.Engine`."""
        if adapter is not None:
            raise unknown_adapter(adapter, "Merge it into its base instead.")
        capacity = checked_capacity(capacity, self.context_length)
        self.runtime(every=False)
        return OnnxSession(self, self._ort, capacity)

    def close(self) -> None:
        """Give the weights' memory back, and end every session. Closing twice is allowed."""
        with self._lock:
            self._runtimes = {}


class OnnxSession:
    """One sequence and its key and value buffers; see `edgereason.engines.base.Session`."""

    def __init__(self, engine: OnnxEngine, ort: Any, capacity: int) -> None:
        self.length = 0
        self._engine = engine
        self._capacity = capacity
        self._mask = np.ones((1, capacity), dtype=np.int64)
        # Fresh zero pages take no memory until a token is written to them.
        self._cache = {
            past: (present, ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, capacity, size), _TYPES[kind])))
            for past, (present, heads, size, kind) in engine.cache_layout.items()
        }

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        """Append `ids`; see `edgereason.engines.base.Session`."""
        if not self._cache:
            raise closed_session()
        tokens = checked_ids(ids, self._engine.vocab_size)[None]
        check_fits(self.length + len(ids), self._capacity)
        pieces = [self._run(tokens[:, at : at + _BATCH], every) for at in range(0, tokens.shape[1], _BATCH)]
        return np.concatenate(pieces) if every else pieces[-1][-1:]

    def _run(self, tokens: npt.NDArray[np.int64], every: bool) -> Logits:
        # tokens: [1, T] -> [T, vocab], or the last row alone where the graph can do that
        count = tokens.shape[1]
        total = self.length + count
        runtime = self._engine.runtime(every)
        binding = runtime.io_binding()
        # A binding does not keep its arrays alive: these names do, until the run is over.
        ids = np.ascontiguousarray(tokens)
        mask = self._mask[:, :total]
        positions = np.arange(self.length, total, dtype=np.int64)[None]
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        if self._engine.takes_positions:
            binding.bind_cpu_input("position_ids", positions)
        rows = 1 if self._engine.slices_logits and not every else count
        for past, (present, value) in self._cache.items():
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(present, value)
        logits = np.empty((1, rows, self._engine.vocab_size), dtype=self._engine.logits_type)
        binding.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        try:
            runtime.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise EngineError(f"onnxruntime could not compute {count} tokens: {str(error).splitlines()[0]}") from error
        self.length = total
        row_logits: Logits = logits[0].astype(np.float32, copy=False)
        return row_logits

    def truncate(self, length: int) -> None:
        """Forget the tokens from `length` on; see `edgereason.engines.base.Session`.

        What lies in the buffers behind `length` is overwritten, and masked until then.
        """
        if not self._cache:
            raise closed_session()
        check_truncation(length, self.length)
        self.length = length

    def close(self) -> None:
        """Give the buffers back. Closing twice is allowed."""
        self._cache = {}


def _onnxruntime() -> Any:
    """The module `onnxruntime`, with its telemetry off: nothing leaves the machine.

    Since 1.31 the library keeps a device id and a queue of events for upload on every system, unless it is told not to
    before it is imported.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime is not installed, which the engine onnx is made of.",
            'Install it: pip install "edgereason[onnx]"',
        ) from error
    onnxruntime.disable_telemetry_events()  # for a process that had imported it before
    return onnxruntime


def _facts(metadata: dict[str, str], file: Path) -> dict[str, Any]:
    """`context_length` and `head_size`: from the model itself, or else from the genai_config.json beside it."""
    if {"context_length", "head_size"} <= set(metadata):
        return metadata
    config = json.loads((file.parent / "genai_config.json").read_text(encoding="utf-8"))["model"]
    return {"context_length": config["context_length"], "head_size": config["decoder"]["head_size"]}
