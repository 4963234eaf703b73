"""The two files of a PEFT adapter, `adapter_config.json` and `adapter_model.safetensors`, opened and checked.

https://huggingface.co/docs/peft/developer_guides/checkpoint describes them. What an adapter does to its base is read
from here by `edgereason.checkpoints.lora`, and by `edgereason.export.inputs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.finite import is_finite
from edgereason.checkpoints.safetensors_reader import MappedTensor, read_safetensors
from edgereason.checkpoints.weights import FloatWeight
from edgereason.errors import BundleError
from edgereason.files import read_json
from edgereason.kernels.packing import BFloat16

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of a checkpoint's modules."""


@dataclass(frozen=True, eq=False)
class AdapterFiles:
    """An opened adapter.

    Attributes:
        path: The directory.
        config: `adapter_config.json`.
        tensors: Mapped from disk, by PEFT's names without the prefix: `model.layers.0.self_attn.q_proj.lora_A.weight`.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, MappedTensor]

    @property
    def config_file(self) -> Path:
        return self.path / "adapter_config.json"

    @property
    def weights_file(self) -> Path:
        return self.path / "adapter_model.safetensors"

    @property
    def base(self) -> str:
        """The name of the base that the adapter was trained on; empty where the configuration has none."""
        return str(self.config.get("base_model_name_or_path") or "")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by the names of `tensors`."""
        return {name: tensor.array.shape for name, tensor in self.tensors.items()}

    def read(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Every tensor as a new float32 array, by the names of `tensors`."""
        for name, tensor in self.tensors.items():
            array = float_array(tensor)
            yield name, array.to_float32() if isinstance(array, BFloat16) else array.astype(np.float32)

    def digest(self) -> bytes:
        """SHA-256 of both files."""
        digest = hashlib.sha256(self.config_file.read_bytes())
        digest.update(self.weights_file.read_bytes())
        return digest.digest()


def open_adapter_files(path: Path) -> AdapterFiles:
    """Open a LoRA adapter's directory.

    Raises:
        BundleError: a file is missing or damaged, it is not a LoRA adapter, or a value is not finite.
    """
    config_file, weights_file = path / "adapter_config.json", path / "adapter_model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise BundleError(
                f"{path} is not a PEFT adapter: it has no {file.name}.",
                "Give the directory that save_pretrained() wrote.",
            )
    config = read_json(config_file)
    if config.get("peft_type") != "LORA":
        raise BundleError(f"{config_file} is of the kind {config.get('peft_type')!r}.", "Give a LoRA adapter.")
    tensors, _ = read_safetensors(weights_file)
    found = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    for name, tensor in found.items():
        if not is_finite(float_array(tensor)):
            raise BundleError(
                f"{weights_file} has NaN or infinite values in {name}.",
                "Its training diverged: take an earlier checkpoint, or train with a lower learning rate.",
            )
    return AdapterFiles(path, config, found)


def float_array(tensor: MappedTensor) -> FloatWeight:
    """A tensor's array in the type of its file."""
    return BFloat16(tensor.array) if tensor.dtype == "BF16" else tensor.array
