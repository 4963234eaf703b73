"""A GGUF file as a Hugging Face directory: what transformers, PEFT and this program's training and export open."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from gguf import GGMLQuantizationType

from edgereason.errors import ExportError
from edgereason.export.inputs.gguf.gguf_configuration import read_configuration
from edgereason.export.inputs.gguf.gguf_metadata import COPY_AGAIN, GgufMetadata
from edgereason.export.inputs.gguf.gguf_vocabulary import end_tokens, write_tokenizer
from edgereason.export.inputs.skeleton import Skeleton
from edgereason.export.progress_callbacks import StepProgress, silent
from edgereason.export.safetensors_writer import TensorSpec, write_safetensors
from edgereason.files import file_sha256, user_cache, write_json
from edgereason.kernels.packing import BFloat16
from edgereason.publishing import new_directory

_REVISION = 1
"""Counts what a conversion writes differently, so that what an earlier one left in the cache is not used."""
RECORD = "gguf.json"
"""Says in a converted directory which file it was made from."""

_NEIGHBOURS = ("llama", "smollm3", "granite")
"""Architectures in which llama.cpp rotates neighbouring rows of q and k, where Hugging Face rotates a head's halves."""
_NORM_OFFSET = {"gemma2": 1.0, "gemma3": 1.0}
"""What llama.cpp's weights of norms have more than the checkpoint's."""


def convert_gguf(file: Path, directory: Path, progress: StepProgress = silent, replace: bool = False) -> None:
    """Write the model in a GGUF file as a Hugging Face directory.

    Quantized tensors are dequantized to float16, those in bfloat16 and float32 keep their type.

    Args:
        file: A `.gguf` file.
        directory: It appears when it is complete, or not at all.
        progress: Called after each tensor.
        replace: Replace what is at `directory`.

    Raises:
        ExportError: the file is damaged, its architecture, tokenizer or a tensor's type is not supported, or the disk
            is full.
    """
    opened = GgufMetadata.open(file)
    config = read_configuration(opened)
    with new_directory(directory, replace) as partial:
        _write(opened, config, partial, progress)


def converted(file: Path, progress: StepProgress = silent) -> Path:
    """The directory of a GGUF file in the user's cache, made once for each file."""
    stamp = f"{file.resolve()}\n{file.stat().st_size}\n{file.stat().st_mtime_ns}\n{_REVISION}"
    directory = user_cache() / "gguf" / f"{file.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):  # another process may be converting it
        if not (directory / RECORD).is_file():
            convert_gguf(file, directory, progress, replace=True)
    return directory


def _write(opened: GgufMetadata, config: dict[str, Any], directory: Path, progress: StepProgress) -> None:
    write_tokenizer(opened, directory)
    weights = _Weights(opened, config)
    write_json(directory / "config.json", {**config, "dtype": weights.dtype})
    if ends := end_tokens(opened):
        write_json(directory / "generation_config.json", {"eos_token_id": ends if len(ends) > 1 else ends[0]})
    write_safetensors(directory / "model.safetensors", weights.specs, weights.read(progress), {"format": "pt"})
    about = {"file": opened.path.name, "sha256": file_sha256(opened.path), "license": opened.get("general.license")}
    write_json(directory / RECORD, about)


class _Weights:
    """The tensors of a file under the names of its Hugging Face checkpoint."""

    def __init__(self, opened: GgufMetadata, config: dict[str, Any]) -> None:
        self._file, self._config = opened, config
        layers = config["num_hidden_layers"]
        names = gguf.get_tensor_name_map(_ARCHITECTURES[opened.architecture], layers)
        model = Skeleton(config, None)
        self._shapes = {name: shape for name, shape in model.shapes.items() if name not in model.tied}
        self._stored = {name: names.get_name(name, try_suffixes=(".weight", ".bias")) for name in self._shapes}
        for name, stored in self._stored.items():
            if stored not in opened.tensors:
                raise ExportError(f"{opened.path} has no tensor {stored}, which would be {name}.", COPY_AGAIN)
        known = {*self._stored.values(), *_OF_CONFIGURATION}
        if unknown := [name for name in opened.tensors if name not in known]:
            raise ExportError(
                f"{opened.path} has the tensor {unknown[0]}, which {config['model_type']} models lack.",
                "Give the Hugging Face model that it was made from.",
            )
        self.specs: dict[str, TensorSpec] = {
            name: (_type(self._tensor(name)), self._shapes[name]) for name in self._shapes
        }

    @property
    def dtype(self) -> str:
        """The type of the matrices, as config.json names it."""
        kinds = {kind for kind, shape in self.specs.values() if len(shape) > 1}
        return "float32" if kinds == {np.float32} else "bfloat16" if kinds == {BFloat16} else "float16"

    def read(self, progress: StepProgress) -> Iterator[tuple[str, npt.NDArray[Any] | BFloat16]]:
        """Each tensor in the type of `specs`."""
        for done, (name, (kind, _)) in enumerate(self.specs.items(), start=1):
            values = self._values(name)
            if kind is BFloat16:
                yield name, BFloat16((values.view(np.uint32) >> 16).astype(np.uint16))  # they came from there: exact
            else:
                with np.errstate(over="ignore"):
                    array = values.astype(kind)
                if not np.isfinite(array).all():
                    raise ExportError(f"{self._file.path} has values in {name} beyond float16.", COPY_AGAIN)
                yield name, array
            progress(done, len(self.specs))

    def _tensor(self, name: str) -> Any:
        return self._file.tensors[self._stored[name]]

    def _values(self, name: str) -> npt.NDArray[np.float32]:
        tensor, shape = self._tensor(name), self._shapes[name]
        try:
            data = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except NotImplementedError as error:
            raise ExportError(
                f"{self._file.path} has {tensor.name} in {tensor.tensor_type.name}, which cannot be dequantized.",
                "Give a file of another type.",
            ) from error
        if data.size != int(np.prod(shape)):
            raise ExportError(f"{self._file.path}: {tensor.name} has not the shape {list(shape)}.", COPY_AGAIN)
        data = data.reshape(shape)
        stem = name.rpartition(".")[0]
        if self._file.architecture in _NEIGHBOURS and stem.endswith(("q_proj", "k_proj")):
            heads = self._config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"]
            # [heads * d, ...] as neighbouring pairs [heads, d/2, 2, ...] -> as two halves [heads, 2, d/2, ...]
            return np.ascontiguousarray(data.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2)).reshape(shape)
        if stem.endswith("norm"):
            data -= _NORM_OFFSET.get(self._file.architecture, 0.0)
        return data


def _type(tensor: Any) -> Any:
    kinds = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.BF16: BFloat16}
    return kinds.get(tensor.tensor_type, np.float16)


_ARCHITECTURES = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
_OF_CONFIGURATION = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors whose numbers config.json has."""
