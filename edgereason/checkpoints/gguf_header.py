"""Check a GGUF file's header before llama.cpp reads it.

llama.cpp trusts much of what a header says, and an unlucky one ends the process. The check follows the specification
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): every length stays inside of the file, every type exists,
and the numbers that sizes are computed from are sane.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from edgereason.errors import BundleError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Value type -> its `struct` code; bool is checked to be 0 or 1.
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_MAX_DIMENSIONS = 4
_MAX_COUNT = 1 << 24
"""More keys or tensors than any model has; less than what would fill the memory."""

_LIMITS = {
    "block_count": 512,  # LLAMA_MAX_LAYERS
    "context_length": _MAX_COUNT,
    "embedding_length": 1 << 20,
    "attention.head_count": 1 << 12,
}


@dataclass
class Header:
    """What a header says.

    Attributes:
        values: The metadata; an array appears as its length.
        shapes: Every tensor's dimensions, the fastest varying first.
    """

    values: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def check_header(path: Path, adapter: bool = False) -> Header:
    """Read and check the header of a GGUF file that holds a model, or a LoRA adapter.

    Raises:
        BundleError: the file is missing, is no GGUF file, or its header is damaged or truncated.
    """
    if not path.is_file():
        raise BundleError(f"{path} does not exist.", "Give a .gguf file, or a directory that holds model.gguf.")
    if path.stat().st_size < 24:
        _refuse(path, "it ends inside of its header")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            header = _Reader(data).header()
            (_check_adapter if adapter else _check_model)(header)
            return header
        except _DamagedError as damage:
            _refuse(path, str(damage))
        except (struct.error, UnicodeDecodeError):
            _refuse(path, "it ends inside of its header, or holds text that is not UTF-8")


def _refuse(path: Path, reason: str) -> NoReturn:
    raise BundleError(
        f"{path} is not a whole GGUF file: {reason}.", "Export the model again, or copy it again from its source."
    )


class _DamagedError(Exception):
    """What is wrong, in words."""


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> Header:
        if self._data[:4] != _MAGIC:
            raise _DamagedError("it does not begin with GGUF")
        self._at = 4
        version = self._number("<I")
        if version not in _VERSIONS:
            raise _DamagedError(f"its version is {version}, known are {' and '.join(map(str, _VERSIONS))}")
        tensors, keys = self._count("<Q"), self._count("<Q")
        header = Header()
        for _ in range(keys):
            name = self._string()
            if name in header.values:
                raise _DamagedError(f"the key {name} occurs twice")
            header.values[name] = self._value(self._number("<I"), distinct=name == "tokenizer.ggml.tokens")
        offsets = [self._tensor(header) for _ in range(tensors)]
        self._check_offsets(offsets, header.values.get("general.alignment", 32))
        return header

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(code, self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _count(self, code: str) -> int:
        count: int = self._number(code)
        if count > _MAX_COUNT:
            raise _DamagedError(f"it claims {count:,} entries")
        return count

    def _string(self) -> str:
        end = self._at + 8 + struct.unpack_from("<Q", self._data, self._at)[0]
        if end > len(self._data):
            raise _DamagedError("a text reaches beyond the end of the file")
        text = self._data[self._at + 8 : end].decode("utf-8")
        self._at = end
        return text

    def _value(self, kind: int, distinct: bool) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(distinct)
        if kind not in _SCALARS:
            raise _DamagedError(f"a value has the unknown type {kind}")
        return self._number(_SCALARS[kind])

    def _array(self, distinct: bool) -> int:
        """Step over an array; returns its length. With `distinct`, no text may occur twice in it."""
        kind, count = self._number("<I"), self._count("<Q")
        if kind == _STRING:
            texts = [self._string() for _ in range(count)]
            # llama.cpp cuts a text at its first NUL.
            if distinct and len({text.partition("\0")[0] for text in texts}) != count:
                raise _DamagedError("a token occurs twice")
        elif kind in _SCALARS:
            self._at += count * struct.calcsize(_SCALARS[kind])
            if self._at > len(self._data):
                raise _DamagedError("an array reaches beyond the end of the file")
        else:
            raise _DamagedError(f"an array has elements of the type {kind}")
        return count

    def _tensor(self, header: Header) -> int:
        """Read one tensor's entry; returns its offset in the data that follows the header."""
        name, dimensions = self._string(), self._number("<I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise _DamagedError(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        if name in header.shapes or not all(0 < size <= 1 << 40 for size in shape):
            raise _DamagedError(f"the tensor {name} occurs twice or has the shape {shape}")
        header.shapes[name] = shape
        self._number("<I")  # the type: llama.cpp refuses those that it does not know
        offset: int = self._number("<Q")
        return offset

    def _check_offsets(self, offsets: list[int], alignment: Any) -> None:
        if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
            raise _DamagedError(f"its alignment is {alignment}")
        start = -(-self._at // alignment) * alignment
        if any(offset % alignment or start + offset >= len(self._data) for offset in offsets):
            raise _DamagedError("the file ends before its last tensor begins")


def _check_adapter(header: Header) -> None:
    kind, alpha = (header.values.get(key) for key in ("general.type", "adapter.lora.alpha"))
    if kind != "adapter" or not isinstance(alpha, float):
        raise _DamagedError(f"it is no LoRA adapter: its type is {kind}, its alpha {alpha}")
    _check_values(header.values)


def _check_model(header: Header) -> None:
    """Refuse what llama.cpp would divide by, allocate or index with."""
    values = header.values
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise _DamagedError("general.architecture is missing")
    for name, maximum in _LIMITS.items():
        value = values.get(f"{architecture}.{name}")
        if not isinstance(value, int) or not 0 < value <= maximum:
            raise _DamagedError(f"{architecture}.{name} is {value}")
    _check_values(values)
    tokens = values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, int) or tokens < 1:
        raise _DamagedError("it has no tokens")


def _check_values(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, float) and not (math.isfinite(value) and (value >= 0 or "epsilon" not in name)):
            raise _DamagedError(f"{name} is {value}")
