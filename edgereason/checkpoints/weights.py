"""The weights of a model directory, mapped from its safetensors files and checked before anything reads them.

Two kinds of directories hold a `config.json` and safetensors files (https://huggingface.co/docs/safetensors):

- native: one `model.safetensors`, written by `edgereason.export.formats.native_writer`. Projections that share an
  input are fused; packed weights are tensors `<name>.qweight`, `.scales`, unless symmetric `.zeros`, and `.order` where
  inputs are stored in another order than the model's; the file's metadata has their shapes under `packed`. Float
  weights are `<name>.weight`.
- Hugging Face: one file or several with an index, float weights under their own names; projections are fused here.
  So are those of GPTQ checkpoints (`edgereason.checkpoints.gptq_format`), which are packed while they are read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints import gptq_format
from edgereason.checkpoints.gptq_format import GptqFormat
from edgereason.checkpoints.safetensors_reader import COPY_AGAIN, MappedTensor, read_safetensors
from edgereason.errors import BundleError
from edgereason.files import read_json
from edgereason.kernels import packing
from edgereason.kernels.packing import BFloat16, PackedWeight

NATIVE_FORMAT = "edgereason-native"
NATIVE_VERSION = "1"

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Projections of one input, which are one product: the fused name and its parts in the order of their rows."""

Float32 = npt.NDArray[np.float32]
FloatWeight = npt.NDArray[Any] | BFloat16
Whole = PackedWeight | FloatWeight
Linear = Whole | tuple[Whole, ...]
"""A weight; or the parts of a fused one that differ in their kind, so that each is a product of its own."""

GPTQ_FILES = "gptq_model*.safetensors"
"""How AutoGPTQ names a checkpoint's weights when it is left to it."""

_FLOATS = ("F16", "BF16", "F32")
_ROWS_COMPARED = 4096


class Weights:
    """A model directory, opened.

    Attributes:
        directory: Where it lies.
        config: Its `config.json`.
        packed: Shape and bits of each packed weight of a native file; empty for others.
        quantized: Whether there are weights of 4 or 8 bits.
    """

    def __init__(self, path: Path) -> None:
        """Open a model directory, or the `.safetensors` file in one.

        Raises:
            BundleError: a file is missing, truncated, or not what its header says.
        """
        self.directory = path.parent if path.is_file() else path
        self.config = read_json(self.directory / "config.json")
        self._tensors: dict[str, MappedTensor] = {}
        self.packed: dict[str, dict[str, int]] = {}
        self._native = False
        for file in [path] if path.is_file() else _files(path):
            tensors, metadata = read_safetensors(file)
            self._tensors.update(tensors)
            if metadata.get("format") == NATIVE_FORMAT:
                self._native = True
                self.packed = _packed_shapes(metadata, file)
        self._gptq = None if self._native else self._gptq_format()
        self.quantized = bool(self.packed) or self._gptq is not None

    def renamed(self, prefix: str, other: str) -> Weights:
        """The same weights, those whose names begin with `prefix` beginning with `other` instead."""
        weights = copy(self)
        weights._tensors = {
            other + name.removeprefix(prefix) if name.startswith(prefix) else name: tensor
            for name, tensor in self._tensors.items()
        }
        return weights

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the files."""
        return sum(tensor.array.nbytes for tensor in self._tensors.values())

    def names(self) -> Iterator[str]:
        """The names of the tensors in the files."""
        return iter(self._tensors)

    def has(self, name: str) -> bool:
        """Whether there is a weight of this name, in any form."""
        return name in self.packed or f"{name}.weight" in self._tensors or f"{name}.qweight" in self._tensors

    def equal(self, name: str, other: str) -> bool:
        """Whether two float weights have the same values."""
        one, two = (self._tensors.get(f"{each}.weight") for each in (name, other))
        if one is None or two is None or one.array.shape != two.array.shape:
            return False
        parts = [slice(start, start + _ROWS_COMPARED) for start in range(0, len(one.array), _ROWS_COMPARED)]
        return all(np.array_equal(_to_float32(_rows(one, part)), _to_float32(_rows(two, part))) for part in parts)

    def vector(self, name: str, size: int) -> Float32:
        """The weight `[size]` of a norm, as float32.

        Raises:
            BundleError: it is missing, or of another shape or type.
        """
        return _to_float32(self._float(f"{name}.weight", (size,)))

    def bias(self, name: str, rows: int | tuple[int, ...]) -> Float32:
        """The bias of a weight, float32 `[rows]`; `rows` has one number for each part of a fused one.

        Raises:
            BundleError: it is missing, or of another shape or type.
        """
        parts = self._parts(name, rows, "bias")
        return np.concatenate([_to_float32(self._float(f"{part}.bias", (count,))) for part, count in parts])

    def linear(self, name: str, rows: int | tuple[int, ...], columns: int) -> Linear:
        """A weight `[rows, columns]`; `rows` has one number for each part of a fused one.

        Raises:
            BundleError: it is missing, or of another shape or type.
        """
        if name in self.packed:
            return self._packed(name, rows if isinstance(rows, int) else sum(rows), columns)
        return _stack([self._whole(part, count, columns) for part, count in self._parts(name, rows, "weight")])

    def _parts(self, name: str, rows: int | tuple[int, ...], kind: str) -> list[tuple[str, int]]:
        """The names under which the parts of a weight or bias are stored, and their rows."""
        if isinstance(rows, int):
            return [(name, rows)]
        prefix, _, last = name.rpartition(".")
        # Some families have their projections fused in the checkpoint.
        if self._native or f"{name}.{kind}" in self._tensors or f"{name}.qweight" in self._tensors:
            return [(name, sum(rows))]
        return list(zip([f"{prefix}.{part}" for part in FUSED[last]], rows, strict=True))

    def _whole(self, name: str, rows: int, columns: int) -> Whole:
        if self._gptq and f"{name}.qweight" in self._tensors:
            return self._quantized(self._gptq, name, rows, columns)
        return self._float(f"{name}.weight", (rows, columns))

    def _gptq_format(self) -> GptqFormat | None:
        values, source = self.config.get("quantization_config"), self.directory / "config.json"
        if values is None and (self.directory / "quantize_config.json").is_file():
            source = self.directory / "quantize_config.json"
            values = read_json(source)
        if values is None:
            return None
        if not isinstance(values, dict):
            raise BundleError(f"{source}: its quantization_config is no object.", COPY_AGAIN)
        return GptqFormat.from_json(values, str(source))

    def _quantized(self, format: GptqFormat, name: str, rows: int, columns: int) -> PackedWeight:
        qweight, qzeros = (self._get(f"{name}.{part}", ("I32",)).array for part in ("qweight", "qzeros"))
        scales = self._get(f"{name}.scales", _FLOATS)
        g_idx = self._get(f"{name}.g_idx", ("I32",)).array if f"{name}.g_idx" in self._tensors else None
        if qweight.ndim != 2 or qweight.shape[1] != rows:
            self._misfit(f"{name}.qweight", qweight.shape, (columns, rows))
        half = BFloat16(scales.array).to_float32() if scales.dtype == "BF16" else scales.array
        try:
            return gptq_format.unpack(format, qweight, qzeros, half, g_idx, columns)
        except ValueError as error:
            raise BundleError(f"{self.directory}: {name} is damaged: {error}.", COPY_AGAIN) from error

    def _packed(self, name: str, rows: int, columns: int) -> PackedWeight:
        shape = self.packed[name]
        if (shape["rows"], shape["columns"]) != (rows, columns):
            self._misfit(name, (shape["rows"], shape["columns"]), (rows, columns))
        zeros = self._get(f"{name}.zeros", ("U8",)) if f"{name}.zeros" in self._tensors else None
        order = self._get(f"{name}.order", ("I32",)).array if f"{name}.order" in self._tensors else None
        if order is not None and not np.array_equal(np.sort(order, axis=None), np.arange(columns)):
            raise BundleError(f"{self.directory}: {name}.order is no order of {columns} inputs.", COPY_AGAIN)
        return PackedWeight(
            self._get(f"{name}.qweight", ("U8",)).array,
            self._get(f"{name}.scales", ("F16",)).array,
            zeros.array if zeros else None,
            rows,
            columns,
            shape["bits"],
            order,
        )

    def _float(self, name: str, shape: tuple[int, ...]) -> FloatWeight:
        tensor = self._get(name, _FLOATS)
        if tensor.array.shape != shape:
            self._misfit(name, tensor.array.shape, shape)
        return BFloat16(tensor.array) if tensor.dtype == "BF16" else tensor.array

    def _get(self, name: str, dtypes: tuple[str, ...]) -> MappedTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise BundleError(f"{self.directory} lacks {name}.", "Perhaps its config.json is of another model.")
        if tensor.dtype not in dtypes:
            raise BundleError(f"{self.directory}: {name} is of type {tensor.dtype}, not {' or '.join(dtypes)}.")
        return tensor

    def _misfit(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        raise BundleError(
            f"{self.directory}: {name} is {list(found)}, its config.json asks for {list(wanted)}.", COPY_AGAIN
        )


def _files(directory: Path) -> list[Path]:
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        if named := sorted(directory.glob(GPTQ_FILES)):
            return named
        raise BundleError(f"{directory} has no model.safetensors.", "Weights have to be safetensors files.")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise BundleError(f"{index} has no weight_map.", COPY_AGAIN)
    names = sorted(set(shards.values()))
    if any(os.path.basename(name) != name for name in names):  # noqa: PTH119 - a string from a file, no path yet
        raise BundleError(f"{index} names files outside of its directory.", COPY_AGAIN)
    return [directory / name for name in names]


def _packed_shapes(metadata: dict[str, str], path: Path) -> dict[str, dict[str, int]]:
    if metadata.get("version") != NATIVE_VERSION:
        raise BundleError(
            f"{path} is of native version {metadata.get('version')}, this edgereason reads {NATIVE_VERSION}.",
            "Update edgereason, or export the model again.",
        )
    fields = {"rows", "columns", "bits"}
    try:
        packed: Any = json.loads(metadata.get("packed", "{}"))
        good = all(set(shape) == fields and all(type(n) is int for n in shape.values()) for shape in packed.values())
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        raise BundleError(f"{path} is damaged: its metadata does not describe packed weights.", COPY_AGAIN)
    return dict(packed)


def _stack(parts: list[Whole]) -> Linear:
    """The parts' rows one after the other, in their own type where it is one."""
    if len(parts) == 1:
        return parts[0]
    quantized = [part for part in parts if isinstance(part, PackedWeight)]
    floats = [part for part in parts if not isinstance(part, PackedWeight)]
    if quantized:
        together = not floats and all(packing.alike(part, quantized[0]) for part in quantized)
        return packing.concatenate(quantized) if together else tuple(parts)
    if all(isinstance(part, BFloat16) for part in floats):
        return BFloat16(np.concatenate([part.bits for part in floats if isinstance(part, BFloat16)]))
    return np.concatenate([part.to_float32() if isinstance(part, BFloat16) else part for part in floats])


def _rows(tensor: MappedTensor, rows: slice) -> FloatWeight:
    part = tensor.array[rows]
    return BFloat16(part) if tensor.dtype == "BF16" else part


def _to_float32(tensor: FloatWeight) -> Float32:
    return tensor.to_float32() if isinstance(tensor, BFloat16) else tensor.astype(np.float32)
