"""What an engine wants to know of the processor: how many threads are worth starting, and which model it is."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_SYSTEM = Path("/sys/devices/system/cpu")


@cache
def default_threads() -> int:
    """Physical cores that this process may run on: a core's second thread shares its arithmetic."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = {_read(_SYSTEM / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return max(1, len(cores))


@cache
def cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith(("model name", "Hardware", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def has_amx() -> bool:
    """Whether the processor has AMX tiles, and the system lets programs use them."""
    return " amx_tile" in _read(Path("/proc/cpuinfo"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
