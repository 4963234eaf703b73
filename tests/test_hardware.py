"""How many threads are worth starting, on machines made of files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgereason.hardware import cpu_quota, fitting_threads, memory_bytes, physical_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def siblings(*lists: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text
        for text in lists
        for cpu in range(int(text.split("-")[0]), int(text.split("-")[-1]) + 1)
    }


def test_a_core_with_two_threads_counts_once(tmp_path: Path) -> None:
    root = write(tmp_path, siblings("0-1", "2-3", "4-5"))
    assert len(physical_cores({0, 1, 2, 3, 4, 5}, root)) == 3
    assert len(physical_cores({1, 2}, root)) == 2


def test_efficiency_cores_do_not_count(tmp_path: Path) -> None:
    intel = write(tmp_path / "intel", siblings("0-1", "2-3", "4", "5") | {"sys/devices/cpu_core/cpus": "0-3"})
    assert physical_cores(set(range(6)), intel) == {"0-1", "2-3"}
    assert physical_cores({4, 5}, intel) == {"4", "5"}  # where there are no others
    speeds = {0: 400, 1: 400, 2: 900, 3: 1024}
    capacities = {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str(speed) for cpu, speed in speeds.items()}
    arm = write(tmp_path / "arm", siblings("0", "1", "2", "3") | capacities)
    assert physical_cores({0, 1, 2, 3}, arm) == {"2", "3"}
    assert physical_cores({0, 1}, arm) == {"0", "1"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 2.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 0.5),
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/c",
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            float("inf"),
        ),
    ],
)
def test_a_control_group_limits_the_threads(tmp_path: Path, files: dict[str, str], quota: float) -> None:
    assert cpu_quota(write(tmp_path, files)) == quota


def test_there_is_at_least_one_thread() -> None:
    assert fitting_threads() >= 1


def test_a_process_fits_into_the_memory() -> None:
    # In a process of its own: what has been the peak of this one stays it.
    program = """
from edgereason.hardware import peak_rss_mb
before = peak_rss_mb()
block = bytearray(200 << 20)
block[::4096] = b"1" * len(block[::4096])
print(before, peak_rss_mb())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before + 150 < after < memory_bytes() / 1e6
