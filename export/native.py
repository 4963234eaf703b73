"""The native format: weights in the kernels' own order, in a safetensors file that is mapped and used as it is.

A stage's directory gets `config.json` and `model.safetensors`; `edgereason.weights` tells what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import ExportError
from edgereason.files import new_file
from edgereason.kernels import packing
from edgereason.kernels.packing import PackedWeight
from edgereason.weights import FUSED, NATIVE_FORMAT, NATIVE_VERSION

Float32 = npt.NDArray[np.float32]
Tensors = Mapping[str, Float32] | Iterable[tuple[str, Float32]]

_TABLES = ("model.embed_tokens", "lm_head")
"""Weights that a model of 4 bits has in 8: rounding them costs most, and each is read in small part or once a token."""

_WHOLE = {part: whole for whole, parts in FUSED.items() for part in parts}
_DTYPES = {"uint8": "U8", "float16": "F16", "float32": "F32"}
_ALIGNMENT = 64
_PLURALS = {"weight": "weights", "bias": "biases"}
_Part = PackedWeight | npt.NDArray[Any]


def write_native(
    directory: Path,
    config: dict[str, Any],
    tensors: Tensors,
    bits: int,
    group_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Quantize a model's weights, round to nearest, and write it for the native engine.

    Args:
        directory: Where to write; made if absent.
        config: The model's Hugging Face configuration.
        tensors: Weights under their Hugging Face names, float32. An iterable is read once, in its order.
        bits: 4 or 8 for the linear layers (embeddings and output head: 8), or 16 for float16 throughout.
        group_size: Inputs that share a scale; a multiple of 32.
        progress: Called with the tensors done and their number, as far as it is known.

    Raises:
        ExportError: a weight is missing or not finite, or the disk is full.
    """
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    total = len(tensors) if isinstance(tensors, Mapping) else _expected_tensors(config)
    writer = _Packer(bits, group_size)
    done = 0
    for done, (name, tensor) in enumerate(items, start=1):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        writer.add(name, tensor)
        if progress:
            progress(done, max(done, total))
    writer.finish()
    if progress and done < total:  # it was a guess
        progress(done, done)
    metadata = {"format": NATIVE_FORMAT, "version": NATIVE_VERSION, "packed": json.dumps(writer.packed)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_safetensors(directory / "model.safetensors", writer.tensors, metadata)
        _write_atomically(directory / "config.json", [json.dumps(config, indent=2).encode() + b"\n"])
    except OSError as error:
        raise ExportError(f"{directory} cannot be written: {error.strerror}.", "Is there space left?") from error


class _Packer:
    """Collects tensors, fuses those that belong together as soon as all are there, and quantizes them."""

    def __init__(self, bits: int, group_size: int) -> None:
        self.tensors: dict[str, npt.NDArray[Any]] = {}
        self.packed: dict[str, dict[str, int]] = {}
        self._bits = bits
        self._group_size = group_size
        self._waiting: dict[str, dict[str, _Part]] = {}

    def add(self, name: str, tensor: Float32) -> None:
        if not np.isfinite(tensor).all():
            raise ExportError(f"{name} has values that are not finite.", "Check the base and the adapter.")
        stem, _, kind = name.rpartition(".")
        if (kind, tensor.ndim) not in (("weight", 1), ("weight", 2), ("bias", 1)):
            raise ExportError(f"The native format has no place for {name} {list(tensor.shape)}.", "Use another format.")
        prefix, _, last = stem.rpartition(".")
        part = np.ascontiguousarray(tensor, np.float32) if tensor.ndim == 1 else self._quantize(stem, tensor)
        if last not in _WHOLE:
            return self._store(name, [part])
        fused = _WHOLE[last]
        whole = f"{prefix}.{fused}.{kind}"
        parts = self._waiting.setdefault(whole, {})
        parts[last] = part
        if len(parts) == len(FUSED[fused]):
            self._store(whole, [parts[name] for name in FUSED[fused]])
            del self._waiting[whole]
        return None

    def finish(self) -> None:
        for whole, parts in self._waiting.items():
            fused, kind = whole.split(".")[-2:]
            missing = ", ".join(sorted(set(FUSED[fused]) - set(parts)))
            raise ExportError(f"{whole} lacks the {_PLURALS[kind]} of {missing}.", "Check the base.")

    def _quantize(self, stem: str, tensor: Float32) -> PackedWeight | npt.NDArray[np.float16]:
        if self._bits == 16:
            with np.errstate(over="ignore"):
                half = tensor.astype(np.float16)
            if not np.isfinite(half).all():
                raise ExportError(f"{stem} has values beyond float16.", "Export with --bits 8.")
            return half
        return packing.quantize(tensor, 8 if stem in _TABLES else self._bits, self._group_size)

    def _store(self, name: str, parts: list[_Part]) -> None:
        quantized = [part for part in parts if isinstance(part, PackedWeight)]
        if not quantized:
            self.tensors[name] = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
            return
        weight, name = packing.concatenate(quantized), name.removesuffix(".weight")
        self.tensors[f"{name}.qweight"] = weight.qweight
        self.tensors[f"{name}.scales"] = weight.scales
        if weight.zeros is not None:
            self.tensors[f"{name}.zeros"] = weight.zeros
        self.packed[name] = {"rows": weight.rows, "columns": weight.columns, "bits": weight.bits}


def write_safetensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a safetensors file whose data starts on a 64-byte boundary, atomically.

    Tensors whose size is a multiple of 64 bytes come first, so that each of them starts on such a boundary too.
    """
    order = sorted(tensors, key=lambda name: tensors[name].nbytes % _ALIGNMENT != 0)
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name in order:
        array = tensors[name]
        end = position + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    _write_atomically(path, [len(text).to_bytes(8, "little"), text, *(tensors[name].data for name in order)])


def _write_atomically(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with new_file(path) as partial, partial.open("wb") as file:
        file.writelines(pieces)


def _expected_tensors(config: dict[str, Any]) -> int:
    layers = int(config.get("num_hidden_layers", 0))
    return 9 * layers + (2 if config.get("tie_word_embeddings") else 3)
