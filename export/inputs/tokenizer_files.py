"""Which directory's tokenizer a stage has, and copying its files."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgereason.errors import ExportError
from edgereason.text.tokenizer import TOKENIZER_FILES


def find_tokenizer(*directories: Path) -> Path:
    """The first directory with a tokenizer; pass the adapter's before the base's, since training may add tokens.

    Raises:
        ExportError: none has a tokenizer.json.
    """
    for directory in directories:
        if (directory / "tokenizer.json").is_file():
            return directory
    raise ExportError(
        f"{directories[-1]} has no tokenizer.json.",
        "Save the tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
    )


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy a tokenizer's files."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
