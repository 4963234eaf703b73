"""The user's settings for this machine: a small JSON file in the configuration directory."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from edgereason.errors import EdgeReasonError, UsageError
from edgereason.files import new_file, read_json


@dataclass(frozen=True)
class Configuration:
    """The user's settings; None where nothing is set.

    Attributes:
        threads: Default number of threads of the engines.
    """

    threads: int | None = None


def path() -> Path:
    """The file: `EDGEREASON_CONFIG`, or in the system's configuration directory."""
    if chosen := os.environ.get("EDGEREASON_CONFIG"):
        return Path(chosen)
    if sys.platform == "win32":
        home = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return home / "edgereason" / "config.json"


def read() -> Configuration:
    """The user's settings; none without a file.

    Raises:
        UsageError: the file is not a valid configuration.
    """
    return _read(path())


def threads(asked: int | None) -> int | None:
    """The number of threads: as asked for, or else as configured; None leaves it to the engine.

    Raises:
        UsageError: the file is not a valid configuration.
    """
    return read().threads if asked is None else asked


def write(configuration: Configuration) -> Path:
    """Write the settings; returns the file.

    Raises:
        UsageError: the file cannot be written.
    """
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as partial:
            partial.write_text(json.dumps(asdict(configuration), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}.", "Check its directory's permissions."
        ) from error
    _read.cache_clear()
    return file


@cache
def _read(file: Path) -> Configuration:
    if not file.is_file():
        return Configuration()
    cure = 'Delete it, or write {"threads": 4} into it.'
    try:
        value = read_json(file)
    except EdgeReasonError as error:
        raise UsageError(f"{file} is not a valid configuration file.", cure) from error
    threads = value.get("threads")
    if set(value) - {"threads"} or not (threads is None or (isinstance(threads, int) and threads >= 1)):
        raise UsageError(f"{file} has an unknown or invalid setting.", cure)
    return Configuration(threads)
