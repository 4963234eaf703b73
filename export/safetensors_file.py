"""Writing a safetensors file tensor by tensor: no more than one of them is in memory.

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

ALIGNMENT = 64
_DTYPES = {"uint8": "U8", "int32": "I32", "float16": "F16", "float32": "F32"}


def write_streamed(
    path: Path,
    specs: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]],
    tensors: Iterable[tuple[str, npt.NDArray[Any]]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file whose data starts on a 64-byte boundary; it appears complete, or not at all.

    Args:
        path: The file; replaced where it exists.
        specs: Type and shape of every tensor, in the order in which they will lie.
        tensors: Every tensor of `specs` once, in any order; each is written to its place as it comes.
        metadata: Strings for the header.

    Raises:
        OSError: the disk is full or refuses.
        ValueError: a tensor is missing, comes twice, or is not what its spec says.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, (dtype, shape) in specs.items():
        end = position + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _DTYPES[np.dtype(dtype).name], "shape": shape, "data_offsets": [position, end]}
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
            if (array.dtype, array.shape) != (np.dtype(dtype), shape):
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)} instead of {dtype} {list(shape)}")
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(np.ascontiguousarray(array).data)
        if missing:
            raise ValueError(f"{min(missing)} is missing")
