"""Profile of the kernels: calls, time, bytes and operations. `EDGEREASON_PROFILE=1` prints it when a program ends.

Products of one row (GEMV), bound by memory bandwidth, and of many rows (GEMM), bound by arithmetic, are counted apart.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import NamedTuple

from edgereason.kernels.cpu import _cpu


class Counter(NamedTuple):
    """What one kind of operation did."""

    name: str
    calls: int
    seconds: float
    bytes: float
    """Read and written: a product's weights, attention's keys and values, else input and output."""
    operations: float
    """Multiplications and additions, of matrix products and attention."""


def start() -> None:
    """Count from zero; counting costs about a tenth of a microsecond a call."""
    _cpu.set_profiling(False)
    _cpu.set_profiling(True)


def stop() -> list[Counter]:
    """Count no longer; returns what was counted."""
    _cpu.set_profiling(False)
    return counters()


def counters() -> list[Counter]:
    """What was counted so far, of the operations that were called."""
    return [Counter(*values) for values in _cpu.profile()]


def table(counted: list[Counter]) -> str:
    """The counters as a text table, with rates, most time first; empty where there are none."""
    if not counted:
        return ""
    total = sum(counter.seconds for counter in counted)
    lines = [f"{'operation':22} {'calls':>9} {'seconds':>9} {'share':>6} {'us/call':>9} {'GB/s':>7} {'TOPS':>7}"]
    for name, calls, seconds, size, operations in sorted(counted, key=lambda counter: -counter.seconds):
        rates = f"{size / seconds / 1e9:7.1f} {operations / seconds / 1e12:7.3f}" if seconds else ""
        lines.append(
            f"{name:22} {calls:9} {seconds:9.3f} {seconds / (total or 1):6.1%} {seconds / calls * 1e6:9.1f} {rates}"
        )
    return "\n".join(lines)


def _print() -> None:
    text = table(stop())
    if text:
        print(text, file=sys.stderr)


if os.environ.get("EDGEREASON_PROFILE", "0") not in ("", "0"):
    start()
    atexit.register(_print)
