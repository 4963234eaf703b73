"""Quantized layers on disk, one file for each: memory holds one at a time, and work can go on after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgereason.checkpoints.weights import read_safetensors
from edgereason.export.formats.safetensors_file import write_streamed
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.kernels.packing import PackedWeight

_PARTS = ("qweight", "scales", "zeros", "order")


@dataclass(frozen=True)
class Unit:
    """Linear layers of one input, which are rounded together and have the same bits.

    Attributes:
        names: Of the layers in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
        losses: By bits: how much rounding this unit alone changes what its decoder layer computes, as the squared
            error's share of the output. Empty where nobody asked.
        bytes: By bits: what the unit takes.
    """

    names: tuple[str, ...]
    losses: dict[int, float]
    bytes: dict[int, int]


class LayerStore:
    """A directory of quantized decoder layers. Files appear complete, or not at all."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory

    def has(self, index: int) -> bool:
        """Whether a decoder layer is finished."""
        return self._file(index).is_file()

    def write(self, index: int, units: list[tuple[Unit, dict[int, list[QuantizedLinear]]]]) -> None:
        """Keep a decoder layer: of each unit, by bits, the weights of its layers in the order of their names."""
        packed = {
            f"{name}.{bits}": weight.to_packed()
            for unit, results in units
            for bits, weights in results.items()
            for name, weight in zip(unit.names, weights, strict=True)
        }
        tensors = {
            f"{name}.{part}": getattr(weight, part)
            for name, weight in packed.items()
            for part in _PARTS
            if getattr(weight, part) is not None
        }
        shapes = {name: [weight.rows, weight.columns, weight.bits] for name, weight in packed.items()}
        listed = [{"names": unit.names, "losses": unit.losses, "bytes": unit.bytes} for unit, _ in units]
        write_streamed(
            self._file(index),
            {name: (array.dtype, array.shape) for name, array in tensors.items()},
            tensors.items(),
            {"shapes": json.dumps(shapes), "units": json.dumps(listed)},
        )

    def units(self, index: int) -> list[Unit]:
        """The units of a finished decoder layer."""
        _, metadata = read_safetensors(self._file(index))
        return [
            Unit(
                tuple(value["names"]),
                {int(bits): float(loss) for bits, loss in value["losses"].items()},
                {int(bits): int(size) for bits, size in value["bytes"].items()},
            )
            for value in json.loads(metadata["units"])
        ]

    def weights(self, index: int, bits: Mapping[str, int]) -> dict[str, PackedWeight]:
        """The weights of a finished decoder layer by name, mapped from disk.

        `bits` says which of those of a layer are wanted where it was kept in several; else the fewest.
        """
        tensors, metadata = read_safetensors(self._file(index))
        arrays: dict[str, npt.NDArray[Any]] = {name: tensor.array for name, tensor in tensors.items()}
        shapes = json.loads(metadata["shapes"])
        return {
            name: _packed(arrays, *_entry(shapes, name, bits.get(name, min(unit.bytes))))
            for unit in self.units(index)
            for name in unit.names
        }

    def all_weights(self, bits: Mapping[str, int]) -> dict[str, PackedWeight]:
        """The weights of all decoder layers; see `weights`."""
        count = len(list(self._directory.glob("layer-*.safetensors")))
        return {name: weight for index in range(count) for name, weight in self.weights(index, bits).items()}

    def _file(self, index: int) -> Path:
        return self._directory / f"layer-{index:04}.safetensors"


def _entry(shapes: Mapping[str, list[int]], name: str, bits: int) -> tuple[str, list[int]]:
    return f"{name}.{bits}", shapes[f"{name}.{bits}"]


def _packed(arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: list[int]) -> PackedWeight:
    zeros, order = arrays.get(f"{name}.zeros"), arrays.get(f"{name}.order")
    rows, columns, bits = shape
    return PackedWeight(arrays[f"{name}.qweight"], arrays[f"{name}.scales"], zeros, rows, columns, bits, order)
