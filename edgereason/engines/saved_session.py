"""A session as bytes: which model and adapter it belongs to, its token ids, its KV cache.

All numbers are little-endian. SHA-256 of everything behind it makes sure that a state which was cut, or changed on its
way, is not taken for one.

    magic     8 bytes   "edgekv" and the version
    sha256    32 bytes  of all that follows
    model     32 bytes  fingerprint of the model's files
    adapter   32 bytes  of the adapter's files, zeros for none
    type      4 bytes   "f32", "f16" or "int8", padded with zeros
    layers, kv_heads, head_dim, capacity, base_tokens, length   u32 each
    ids       i32 [length]
    state     as `SequenceState.save` writes it
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError

_MAGIC = b"edgekv\x00\x02"
_FIELDS = struct.Struct("<32s32s4s6I")
_BODY = len(_MAGIC) + 32
_SAMPLE_BYTES, _STRIDE = 4096, 1 << 20
_CURE = "Delete it, it is computed again."
NO_ADAPTER = bytes(32)


@dataclass(frozen=True)
class SavedSession:
    """What a session's bytes say.

    `shape` is layers, KV heads, head dimension. `capacity` is the session's: some rotary embeddings depend on it.
    `base_tokens` is how many of the first tokens the base alone computed, whatever the adapter.
    """

    model: bytes
    adapter: bytes
    cache_type: str
    shape: tuple[int, int, int]
    capacity: int
    base_tokens: int
    ids: list[int]
    state: npt.NDArray[np.uint8]

    def to_bytes(self) -> bytes:
        """The bytes that `from_bytes` reads."""
        numbers = (*self.shape, self.capacity, self.base_tokens, len(self.ids))
        fields = _FIELDS.pack(self.model, self.adapter, self.cache_type.encode(), *numbers)
        body = b"".join([fields, np.asarray(self.ids, "<i4").tobytes(), self.state.data])
        return b"".join([_MAGIC, hashlib.sha256(body).digest(), body])

    @classmethod
    def from_bytes(cls, data: bytes) -> SavedSession:
        """Read a saved session. The size of its state has still to be compared with its shape.

        Raises:
            BundleError: the bytes are truncated, altered, of another version, or something else.
        """
        if data[: len(_MAGIC) - 1] != _MAGIC[:-1]:
            raise BundleError("These bytes are no saved session.", "Give what session.save() returned.")
        if data[: len(_MAGIC)] != _MAGIC:
            raise BundleError(f"The saved session is of version {data[7:8].hex()}, not {_MAGIC[7:].hex()}.", _CURE)
        body = memoryview(data)[_BODY:]
        if hashlib.sha256(body).digest() != data[len(_MAGIC) : _BODY] or len(body) < _FIELDS.size:
            raise BundleError("The saved session is truncated or altered.", _CURE)
        model, adapter, cache_type, *numbers = _FIELDS.unpack_from(body)
        layers, kv_heads, head_dim, capacity, base_tokens, length = numbers
        if len(body) < _FIELDS.size + 4 * length:
            raise BundleError("The saved session is truncated or altered.", _CURE)
        ids = np.frombuffer(body, "<i4", length, _FIELDS.size).tolist()
        state = np.frombuffer(body, np.uint8, offset=_FIELDS.size + 4 * length)
        name = cache_type.rstrip(b"\0").decode("latin-1")
        return cls(model, adapter, name, (layers, kv_heads, head_dim), capacity, base_tokens, ids, state)


def weights_fingerprint(files: Iterable[Path]) -> bytes:
    """32 bytes that tell the weights of models apart: from each file's name, size, and the first 4 KB of every MB.

    Whole files would take a second per GB to read; any change of a model's weights shows in all of them.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for position in range(0, size, _STRIDE):
                file.seek(position)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()
