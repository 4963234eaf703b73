"""Facts about this machine and this process: cores worth starting threads on, processor, memory."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


@cache
def fitting_threads() -> int:
    """Physical performance cores that this process may run on, and no more than its control group's share of time.

    A core's second thread shares its arithmetic. Efficiency cores would be waited for: all threads of an operation have
    to be done before the next one begins.
    """
    if not hasattr(os, "sched_getaffinity"):
        return _performance_cores_of_macos() or os.cpu_count() or 1
    cores = physical_cores(set(os.sched_getaffinity(0)))
    return max(1, math.floor(min(len(cores), cpu_quota())))


def physical_cores(allowed: set[int], root: Path = _ROOT) -> set[str]:
    """The cores, by the list of their threads, that `allowed` logical ones belong to; of two kinds the fast ones.

    Linux tells Intel's performance cores in `devices/cpu_core/cpus`, and how fast ARM's cores are in `cpu_capacity`.
    """
    system = root / "sys/devices/system/cpu"
    fast = allowed & _numbers(_read(root / "sys/devices/cpu_core/cpus"))
    capacities = {cpu: int(_read(system / f"cpu{cpu}/cpu_capacity") or 0) for cpu in allowed}
    fast = fast or {cpu for cpu in allowed if 2 * capacities[cpu] > max(capacities.values())} or allowed
    return {_read(system / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in fast}


def cpu_quota(root: Path = _ROOT) -> float:
    """How many CPUs' time the process's control group, or one above it, may use; infinite without a limit (cgroups)."""
    quota = float("inf")
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mounts = {"": "sys/fs/cgroup", "cpu": "sys/fs/cgroup/cpu"}
        mount = mounts.get("cpu" if "cpu" in controllers.split(",") else controllers)
        if mount is None:
            continue
        group = PurePosixPath(path)
        for at in (group, *group.parents):
            directory = root / mount / str(at).lstrip("/")
            limit = _read(directory / "cpu.max") or (  # version 2, else version 1
                f"{_read(directory / 'cpu.cfs_quota_us')} {_read(directory / 'cpu.cfs_period_us')}"
            )
            try:
                allowed, period = map(int, limit.split())
            except ValueError:  # "max", or nothing
                continue
            if allowed > 0 and period > 0:
                quota = min(quota, allowed / period)
    return quota


def _performance_cores_of_macos() -> int:
    try:
        command = ["sysctl", "-n", "hw.perflevel0.physicalcpu"]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=5).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _numbers(text: str) -> set[int]:
    """The numbers of a list such as `0-3,8`."""
    spans = (part.partition("-") for part in text.split(",") if part)
    return {number for first, _, last in spans for number in range(int(first), int(last or first) + 1)}


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


def memory_bytes() -> int:
    """The machine's memory in bytes; 0 where the system does not say."""
    if os.name == "nt":
        return _windows_memory_bytes()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _windows_memory_bytes() -> int:
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    found = ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined,unused-ignore]
    return kilobytes.value * 1024 if found else 0


def peak_rss_mb() -> float:
    """The peak resident memory of this process, in 10^6 bytes; 0 where the system does not say."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
