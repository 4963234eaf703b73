"""Data that is too large for the repository: found by environment variable or beside the checkout, else skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(os.environ.get("EDGEREASON_SHARED", Path(__file__).parent.parent.parent / "shared"))


def shared(path: str) -> Path:
    """A file or directory of the shared data; the test is skipped where it is absent."""
    found = _ROOT / path
    if not found.exists():
        pytest.skip(f"no {path} in $EDGEREASON_SHARED or in the folder shared beside the checkout")
    return found
