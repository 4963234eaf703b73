"""How much memory the process has, for tests that look for leaks."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest


def resident_bytes() -> int:
    """The resident set; the test is skipped where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize()
