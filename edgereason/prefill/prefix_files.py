"""Sessions of a bundle's fixed instructions, saved on disk from one run of the program to the next.

They lie in the bundle's directory `cache`, or where that cannot be written to in the user's cache directory. A file's
name says by a hash what its content depends on: the bundle's files, the tokens, this program, its kernels and their
instruction set. What differs has another name; what is damaged is refused when it is read, and computed again.
Deleting files does no harm, nor do several processes: each writes a file of its own and renames it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from edgereason.bundle import CACHE, DEFAULT_BUNDLE, Bundle
from edgereason.files import user_cache
from edgereason.kernels import cpu
from edgereason.version import __version__


class PrefixFiles:
    """The files of one bundle."""

    def __init__(self, bundle: Bundle) -> None:
        sums = _hash({name: record.sha256 for name, record in sorted(bundle.files.items())})
        self._origin = [__version__, cpu.build(), cpu.isa(), cpu.spans(), sums]
        # What pip has installed stays as pip has installed it.
        inside = bundle.path != DEFAULT_BUNDLE and os.access(bundle.path, os.W_OK)
        self.directory = bundle.path / CACHE if inside else user_cache() / "prefixes" / sums

    def path(self, stage: str, ids: Sequence[int]) -> Path:
        """Where the session of a stage's tokens lies, if it is there."""
        return self.directory / f"{stage}-{_hash([self._origin, list(ids)])}.kv"

    def read(self, stage: str, ids: Sequence[int]) -> bytes | None:
        """What `write` has written, as far as it can be read. Its content has still to be checked."""
        with contextlib.suppress(OSError):
            return self.path(stage, ids).read_bytes()
        return None

    def write(self, stage: str, ids: Sequence[int], session: bytes) -> None:
        """Write a saved session, and remove those that this stage had of other versions. Failing does no harm."""
        path = self.path(stage, ids)
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        with contextlib.suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(session)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            for other in self.directory.glob(f"{stage}-*.kv"):
                if other != path:
                    other.unlink(missing_ok=True)


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
