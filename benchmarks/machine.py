"""The limits of this machine for language models: memory bandwidth and int8 arithmetic."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgereason.errors import EdgeReasonError

_SOURCE = Path(__file__).with_name("machine.cpp")


@dataclass(frozen=True)
class Limits:
    """What the machine reaches with some number of threads.

    Attributes:
        read_gb_s: 10^9 bytes read per second from memory in large pages, far beyond the caches.
        read_gb_s_small_pages: The same in small pages, in which mapped files lie.
        int8_tops_by_isa: 10^12 int8 multiplications and additions per second, in registers, by instruction set.
    """

    read_gb_s: float
    read_gb_s_small_pages: float
    int8_tops_by_isa: dict[str, float]

    @property
    def int8_tops(self) -> float:
        """Of the fastest instruction set; 0 where none is known."""
        return max(self.int8_tops_by_isa.values(), default=0.0)


def measure(threads: int, build: Path) -> Limits:
    """Measure for some seconds, with `threads` threads.

    Args:
        threads: At least 1.
        build: Where the small program that measures is kept; it is compiled when it is missing or old.

    Raises:
        EdgeReasonError: there is no C++ compiler, or it cannot compile the program.
    """
    command = [str(_program(build)), str(threads)]
    return Limits(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


@cache
def _program(build: Path) -> Path:
    program = build / "machine"
    if program.is_file() and program.stat().st_mtime > _SOURCE.stat().st_mtime:
        return program
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise EdgeReasonError("There is no C++ compiler to measure this machine with.", "Install one, or set CXX.")
    build.mkdir(parents=True, exist_ok=True)
    partial = program.with_suffix(f".{os.getpid()}")
    # Everything beyond the baseline is chosen at run time on x86; ARM compilers have to be told of dot products.
    native = ["-mcpu=native"] if os.uname().machine in ("aarch64", "arm64") else []
    command = [compiler, "-std=c++17", "-O3", "-pthread", *native, str(_SOURCE), "-o", str(partial)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise EdgeReasonError(f"{compiler} cannot compile {_SOURCE}: {result.stderr.strip()}", "Try CXX=g++.")
    partial.replace(program)
    return program
