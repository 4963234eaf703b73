"""JSON files read with errors that name them, and files that are written whole or not at all."""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgereason.errors import BundleError, UsageError

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


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSON lines file (also gzipped) that are not blank, each with its number from 1.

    Only a line feed ends a line (https://jsonlines.org): strings may hold U+2028 or U+0085. A byte order mark and
    carriage returns do not count.

    Raises:
        UsageError: the file is missing or cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if text:
                    yield number, text
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist.", "Give a JSON lines file.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Give a JSON lines file.") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSON lines file, each with where it stands, `FILE:LINE`; see `json_lines`.

    Raises:
        UsageError: the file is missing or cannot be read, or a line is not JSON.
    """
    for number, line in json_lines(path):
        try:
            yield f"{path}:{number}", json.loads(line)
        except ValueError as error:  # includes text that is not UTF-8
            raise UsageError(
                f"{path}:{number} is not JSON: {error}.", "Give a file with a JSON value on each line."
            ) from error


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON that people can read."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """A temporary name beside `out` to write to; it becomes `out` when the block ends well, and vanishes otherwise.

    Those of processes that were killed vanish, too, where the system tells which processes there are.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    for left in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if left.is_file() and _was_killed(left.name.split(".")[-2]):
            left.unlink(missing_ok=True)
    try:
        yield partial
        sync(partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _was_killed(process: str) -> bool:
    """Whether there is no process of this number."""
    if os.name == "nt" or not process.isdecimal():  # Windows' os.kill() ends it
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no number of a process
        pass
    return False


def sync(path: Path) -> None:
    """Force a file's or directory's contents to the disk, where the system knows how."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open directories
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def user_cache() -> Path:
    """The user's directory for what can be computed again; it may not exist yet."""
    if os.name == "nt" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "edgereason"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgereason"
