"""The weights in a bundle's files by Hugging Face's names, dequantized to float32: errors of a writer show here.

Each format is read by other code than it is written by.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.weights import FUSED, Linear, Weights
from edgereason.errors import BundleError
from edgereason.files import read_json
from edgereason.kernels.packing import BFloat16, PackedWeight

Float32 = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
"""The parameters of a model in transformers, by name."""


class ModelFile(Protocol):
    """One model of a bundle, opened."""

    def weight(self, name: str) -> Float32:
        """A parameter under its name in transformers, in its shape there.

        Raises:
            BundleError: the file does not have it.
        """
        ...

    def end_tokens(self) -> dict[str, frozenset[int]]:
        """The stop tokens, by the file that names them."""
        ...


def open_model_file(format: str, directory: Path, shapes: Shapes) -> ModelFile:
    """Open one model of a bundle.

    Args:
        format: The bundle's format.
        directory: The model's directory.
        shapes: The shapes of the parameters.

    Raises:
        BundleError: a file is missing or damaged.
    """
    if format == "gguf":
        from edgereason.export.fidelity.readback.gguf_file import GGUFFile

        return GGUFFile(directory / "model.gguf", shapes)
    if format == "onnx":
        from edgereason.export.fidelity.readback.onnx_file import OnnxFile

        return OnnxFile(directory / "model.onnx", shapes)
    return SafetensorsFile(directory, shapes)


class SafetensorsFile:
    """Weights for the native engine: the native format, and checkpoints with Hugging Face's names (GPTQ)."""

    def __init__(self, directory: Path, shapes: Shapes) -> None:
        self._directory = directory
        self._shapes = shapes
        self._weights = Weights(directory)
        self._names = set(self._weights.names())
        self._fused: tuple[str, Float32] = ("", np.empty(0, np.float32))

    def weight(self, name: str) -> Float32:
        shape = self._shapes[name]
        stem, _, kind = name.rpartition(".")
        if {name, f"{stem}.qweight"} & self._names:
            return self._read(stem, kind, shape[0], shape)
        prefix, _, last = stem.rpartition(".")
        for fused, parts in FUSED.items():
            if last in parts:
                siblings = [f"{prefix}.{part}.{kind}" for part in parts]
                rows = tuple(self._shapes[sibling][0] for sibling in siblings)
                start = sum(rows[: parts.index(last)])
                return self._whole(f"{prefix}.{fused}", kind, rows, shape)[start : start + shape[0]]
        raise BundleError(f"{self._directory} has no weight {name}.", "Export the bundle again.")

    def _whole(self, stem: str, kind: str, rows: tuple[int, ...], shape: tuple[int, ...]) -> Float32:
        key = f"{stem}.{kind}"
        if self._fused[0] != key:  # its parts are asked for one after the other
            self._fused = key, self._read(stem, kind, rows, shape)
        return self._fused[1]

    def _read(self, stem: str, kind: str, rows: int | tuple[int, ...], shape: tuple[int, ...]) -> Float32:
        if kind == "bias":
            return self._weights.bias(stem, rows)
        if len(shape) == 1:
            return self._weights.vector(stem, shape[0])
        return _to_float32(self._weights.linear(stem, rows, shape[1]))

    def end_tokens(self) -> dict[str, frozenset[int]]:
        return named_tokens(self._directory / "config.json", "eos_token_id")


def _to_float32(weight: Linear) -> Float32:
    if isinstance(weight, tuple):
        return np.concatenate([_to_float32(part) for part in weight])
    if isinstance(weight, PackedWeight):
        return weight.dequantize()
    return weight.to_float32() if isinstance(weight, BFloat16) else weight.astype(np.float32)


def named_tokens(path: Path, *keys: str) -> dict[str, frozenset[int]]:
    """The stop tokens that a JSON file names under nested `keys`; empty where it names none."""
    if not path.is_file():
        return {}
    value: object = read_json(path)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        return {}
    ids = value if isinstance(value, list) else [value]
    return {path.name: frozenset(each for each in ids if isinstance(each, int))}
