"""Measuring in processes of their own: what one engine allocates, loads or breaks does not touch the next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

MISSING = 3
"""A child's exit status where what it measures is not installed; its last line says what is missing."""

_TIMEOUT_S = 3600


class ChildError(Exception):
    """A child that gave no result; says why in one line."""


class NotInstalledError(ChildError):
    """What a child was to measure is not installed; says what is missing."""


def run(command: list[str], threads: int, standard_input: str = "") -> dict[str, Any]:
    """Run a command and return the JSON object in the last line of its output.

    `others` in it is the share of the machine's processor time that other programs took meanwhile.

    Raises:
        NotInstalledError: it says that something is missing, or its interpreter is.
        ChildError: it failed, was killed, or took longer than an hour.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start, busy = time.perf_counter(), _busy_seconds_of_others()
    try:
        result = subprocess.run(
            command, env=environment, input=standard_input, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except OSError as error:
        raise NotInstalledError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"took longer than {_TIMEOUT_S} s") from error
    elapsed = (time.perf_counter() - start) * (os.cpu_count() or 1)
    others = max(0.0, _busy_seconds_of_others() - busy) / elapsed
    lines = result.stdout.strip().splitlines() or ["{}"]
    if result.returncode == MISSING:
        raise NotInstalledError(str(json.loads(lines[-1])["missing"]))
    if result.returncode < 0:
        raise ChildError(f"ended with {signal.Signals(-result.returncode).name}")
    if result.returncode > 0:
        complaint = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no message"]
        raise ChildError(f"failed: {complaint[-1]}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return {**answer, "others": others}


def read(directory: Path) -> None:
    """Bring all files of a directory into the page cache, so that loading is not a measurement of the disk."""
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as stream:
                buffer = bytearray(1 << 20)
                while stream.readinto(buffer):
                    pass


def _busy_seconds_of_others() -> float:
    """Processor time that was spent since the machine's start, but not by our finished children; 0 but on Linux."""
    statistics = Path("/proc/stat")
    if not statistics.is_file():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, statistics.read_text().split(maxsplit=9)[1:9])
    ours = os.times()
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return total - ours.children_user - ours.children_system
