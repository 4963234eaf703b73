"""Quantized layers on disk, one file for each: memory holds one at a time, and work can go on after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgereason.checkpoints.safetensors_reader import read_safetensors
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.export.safetensors_writer import write_safetensors
from edgereason.kernels.packing import PackedWeight

_PARTS = ("qweight", "scales", "zeros", "order")


@dataclass(frozen=True)
class LayerGroup:
    """Linear layers of one input, which are quantized together and have the same bits.

    Attributes:
        names: Of the layers in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
        losses: By bits: the squared error of the decoder layer's outputs with this group alone quantized, as a share of
            their squares. Empty where no choice between bits is made.
        bytes: By bits: the size of the group.
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

    def write(self, index: int, groups: list[tuple[LayerGroup, dict[int, list[QuantizedLinear]]]]) -> None:
        """Store a decoder layer: for each group, by bits, the weights of its layers in the order of their names."""
        packed = {
            f"{name}.{bits}": weight.to_packed()
            for group, results in groups
            for bits, weights in results.items()
            for name, weight in zip(group.names, weights, strict=True)
        }
        tensors = {
            f"{name}.{part}": getattr(weight, part)
            for name, weight in packed.items()
            for part in _PARTS
            if getattr(weight, part) is not None
        }
        shapes = {name: [weight.rows, weight.columns, weight.bits] for name, weight in packed.items()}
        listed = [{"names": group.names, "losses": group.losses, "bytes": group.bytes} for group, _ in groups]
        write_safetensors(
            self._file(index),
            {name: (array.dtype, array.shape) for name, array in tensors.items()},
            tensors.items(),
            {"shapes": json.dumps(shapes), "units": json.dumps(listed)},
        )

    def groups(self, index: int) -> list[LayerGroup]:
        """The groups of a finished decoder layer."""
        _, metadata = read_safetensors(self._file(index))
        return [
            LayerGroup(
                tuple(value["names"]),
                {int(bits): float(loss) for bits, loss in value["losses"].items()},
                {int(bits): int(size) for bits, size in value["bytes"].items()},
            )
            for value in json.loads(metadata["units"])
        ]

    def weights(self, index: int, bits: Mapping[str, int]) -> dict[str, PackedWeight]:
        """The weights of a finished decoder layer by name, mapped from disk.

        `bits` chooses where a layer is stored in several; the fewest are the default.
        """
        tensors, metadata = read_safetensors(self._file(index))
        arrays: dict[str, npt.NDArray[Any]] = {name: tensor.array for name, tensor in tensors.items()}
        shapes = json.loads(metadata["shapes"])
        return {
            name: _packed(arrays, *_entry(shapes, name, bits.get(name, min(group.bytes))))
            for group in self.groups(index)
            for name in group.names
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
