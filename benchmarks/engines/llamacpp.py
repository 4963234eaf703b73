"""llama.cpp through llama-cpp-python: `Q4_0`, the type that its CPU kernels are fastest with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

_UNREAD = "token_embd.weight"


def convert(checkpoint: Path, out: Path) -> int:
    """Write the engine's files into `out`; returns the bytes that one decoded token reads."""
    from gguf import GGUFReader

    from edgereason.export.gguf import write_gguf

    out.mkdir(parents=True, exist_ok=True)
    write_gguf(checkpoint, out / "model.gguf", "Q4_0")
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(out / "model.gguf").tensors}
    return sum(tensors.values()) - (tensors[_UNREAD] if "output.weight" in tensors else 0)


class Model:
    """A loaded model and its context, driven through the C interface: no Python between the engine and the token."""

    def __init__(self, directory: Path, threads: int, capacity: int) -> None:
        llama_cpp.llama_backend_init()
        path = str(directory / "model.gguf").encode()
        self._model = llama_cpp.llama_model_load_from_file(path, llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the model")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = capacity
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._greedy = llama_cpp.llama_sampler_init_greedy()

    def generate(self, ids: Sequence[int], count: int, on_token: Callable[[int], None]) -> None:
        """Read `ids` from an empty cache and generate `count` tokens, greedily; `on_token` hears each at once."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        for _ in range(count):
            tokens = np.asarray(ids, np.int32)
            pointer = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(pointer, len(tokens))) != 0:
                raise RuntimeError("llama_decode failed")
            token = llama_cpp.llama_sampler_sample(self._greedy, self._context, -1)
            on_token(token)
            ids = [token]


def about() -> dict[str, str]:
    """What else the results should name."""
    return {"version": llama_cpp.__version__}
