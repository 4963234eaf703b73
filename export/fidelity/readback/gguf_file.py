"""A GGUF file's weights under Hugging Face's names, read and dequantized by the `gguf` package.

llama.cpp's layout is undone here, independently of the code that writes it: some architectures have the rows of q and k
in the order of llama.cpp's RoPE, and Gemma's weights of norms have one added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.gguf_tokenizer import GgufTokenizer
from edgereason.checkpoints.llama_library import llama_library, without_weights
from edgereason.errors import BundleError
from edgereason.export.fidelity.readback.model_files import Float32, Shapes

_INTERLEAVED = ("llama", "granite", "smollm3")
"""Architectures (`general.architecture`) with neighbouring pairs in q and k, as llama.cpp rotates them."""
_NORMS_PLUS_ONE = ("gemma", "gemma2", "gemma3")


@contextmanager
def own_tokenizer(path: Path) -> Iterator[GgufTokenizer]:
    """The tokenizer that a file brings, as llama.cpp reads it.

    Raises:
        BundleError: llama.cpp cannot read the file.
    """
    with without_weights(path) as model:
        yield GgufTokenizer(llama_library(), model, path)


class GGUFFile:
    """A model in GGUF."""

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self._path = path
        self._shapes = shapes
        try:
            self._reader = gguf.GGUFReader(path)
            self._architecture = str(self._key("general.architecture"))
            layers = int(self._key(f"{self._architecture}.block_count"))
            architecture = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}[self._architecture]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise BundleError(f"{path} cannot be read: {error}.", "Export the bundle again.") from error
        self._names = gguf.get_tensor_name_map(architecture, layers)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def _key(self, name: str) -> Any:
        field = self._reader.get_field(name)
        if field is None:
            raise KeyError(name)
        return field.contents()

    def weight(self, name: str) -> Float32:
        stored = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        tensor = self._tensors.get(stored)
        if tensor is None:
            raise BundleError(f"{self._path} has no tensor {stored} for {name}.", "Export the bundle again.")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        data: Float32 = np.array(values, np.float32).reshape(self._shapes[name])
        if self._architecture in _INTERLEAVED and name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
            return _halves(data, self._heads(name))
        if self._architecture in _NORMS_PLUS_ONE and name.endswith("norm.weight"):
            data -= 1
        return data

    def _heads(self, name: str) -> int:
        which = "head_count" if "q_proj" in name else "head_count_kv"
        return int(self._key(f"{self._architecture}.attention.{which}"))

    def end_tokens(self) -> dict[str, frozenset[int]]:
        fields = (self._reader.get_field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
        return {self._path.name: frozenset(int(field.contents()) for field in fields if field is not None)}


def _halves(tensor: npt.NDArray[np.float32], heads: int) -> Float32:
    # rows [heads * d] as neighbouring pairs [heads, d/2, 2] -> as two halves [heads, 2, d/2]
    pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(tensor.shape)
