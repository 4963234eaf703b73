"""JSON files read with errors that name them, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgereason.errors import BundleError

_DAMAGED = "Copy or export the model again."


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.", "Is this a model's directory?") from error
    except ValueError as error:  # includes text that is not UTF-8
        raise BundleError(f"{path} is not JSON: {error}.", _DAMAGED) from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} is not a JSON object.", _DAMAGED)
    return value


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON that people can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """A temporary name beside `out` to write to; it becomes `out` when the block ends well, and vanishes otherwise."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Force a file's or directory's contents to the disk, where the system knows how."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open directories
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def user_cache() -> Path:
    """The user's directory for what can be computed again; it may not exist yet."""
    if os.name == "nt" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "edgereason"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgereason"
