"""Writing a safetensors file tensor by tensor, with one tensor in memory at a time.

https://huggingface.co/docs/safetensors has the format: a JSON header with the place of every tensor, then their bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.files import new_file
from edgereason.kernels.packing import BFloat16

ALIGNMENT = 64
_DTYPES = {"uint8": "U8", "int32": "I32", "float16": "F16", "float32": "F32"}

TensorSpec = tuple[npt.DTypeLike | type[BFloat16], tuple[int, ...]]
"""A tensor's type and shape."""


def write_safetensors(
    path: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, npt.NDArray[Any] | BFloat16]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file whose data starts on a 64-byte boundary; it appears complete, or not at all.

    Args:
        path: The file; replaced where it exists.
        specs: Type and shape of every tensor, in the order of the file.
        tensors: Every tensor of `specs` once, in any order; each is written as it comes.
        metadata: Strings for the header.

    Raises:
        OSError: the disk is full or refuses.
        ValueError: a tensor is missing, comes twice, or is not what its spec says.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (dtype, shape) in specs.items():
        held, code = _types(dtype)
        end = position + math.prod(shape) * held.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    missing = set(specs)
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
        for name, array in tensors:
            if name not in missing:
                raise ValueError(f"{name} is not expected here, or comes twice")
            missing.remove(name)
            dtype, shape = specs[name]
            data = array.bits if isinstance(array, BFloat16) else array
            found = BFloat16 if isinstance(array, BFloat16) else array.dtype
            if (_types(found), data.shape) != (_types(dtype), shape):
                raise ValueError(f"{name} is {found} {list(data.shape)} instead of {dtype} {list(shape)}")
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(np.ascontiguousarray(data).data)
        if missing:
            raise ValueError(f"{min(missing)} is missing")


def _types(dtype: npt.DTypeLike | type[BFloat16]) -> tuple[np.dtype[Any], str]:
    """What numpy holds a type in, and what the format calls it."""
    if dtype is BFloat16:
        return np.dtype(np.uint16), "BF16"
    return np.dtype(dtype), _DTYPES.get(np.dtype(dtype).name, "")
