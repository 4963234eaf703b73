"""Reading a safetensors file: its tensors mapped from disk, its header checked before anything relies on it.

https://huggingface.co/docs/safetensors has the format.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError

COPY_AGAIN = "Copy or export the model again."

_MAX_HEADER_BYTES = 100_000_000
_DTYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": np.uint16,
    "U32": np.uint32,
    "I32": np.int32,
    "F32": np.float32,
    "U64": np.uint64,
    "I64": np.int64,
    "F64": np.float64,
}


@dataclass(frozen=True)
class MappedTensor:
    """A tensor as it lies in its file. bfloat16 arrays are uint16; `dtype` is the file's word for the type."""

    array: npt.NDArray[Any]
    dtype: str


def read_safetensors(path: Path) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """The tensors of a file, mapped from disk, and its metadata.

    Nothing is copied, so the tensors are valid as long as the file is not changed.

    Raises:
        BundleError: the file is missing, truncated, or its header describes other bytes than it has.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise BundleError(f"{path} is truncated, or no safetensors file.", COPY_AGAIN)
            text = file.read(length)
        data = np.asarray(np.memmap(path, np.uint8, "r"))[8 + length :]
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(data, entry) for name, entry in header.items()}
        _check_coverage([entry["data_offsets"] for entry in header.values()], len(data))
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no object")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: {error}.", COPY_AGAIN) from error
    return tensors, metadata


def _tensor(data: npt.NDArray[np.uint8], entry: dict[str, Any]) -> MappedTensor:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _DTYPES:
        raise ValueError(f"unknown type {dtype!r}")
    numbers = (*shape, begin, end)
    if any(type(number) is not int or number < 0 for number in numbers) or not begin <= end <= len(data):
        raise ValueError(f"a tensor of shape {list(shape)} at {begin} to {end} of {len(data)} bytes")
    if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != end - begin:
        raise ValueError(f"{end - begin} bytes for a tensor {dtype} {list(shape)}")
    array = data[begin:end].view(_DTYPES[dtype]).reshape(shape)
    return MappedTensor(array if array.flags.aligned else array.copy(), dtype)


def _check_coverage(offsets: list[list[int]], size: int) -> None:
    """Tensors follow each other without holes or overlaps, up to the end of the file."""
    position = 0
    for begin, end in sorted(offsets):
        if begin != position:
            raise ValueError(f"tensors overlap or leave a hole at byte {min(begin, position)}")
        position = end
    if position != size:
        raise ValueError(f"{size} bytes of data where the header describes {position}")
