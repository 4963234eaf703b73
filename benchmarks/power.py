"""Energy from the kernel's power counters (Linux, powercap/RAPL), where they can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_COUNTERS = Path("/sys/class/powercap")


@contextmanager
def joules() -> Iterator[Callable[[], float | None]]:
    """Yields a function that gives the joules that all processor packages have used since; None without counters."""
    before = _read()

    def used() -> float | None:
        after = _read()
        if not before or before.keys() != after.keys():
            return None
        return sum(_difference(path, before[path], after[path]) for path in before) / 1e6

    yield used


def _read() -> dict[Path, int]:
    """Microjoules by package."""
    found = {}
    for path in sorted(_COUNTERS.glob("intel-rapl:[0-9]*")):
        if path.name.count(":") == 1:  # a package; its parts have one more number
            try:
                found[path] = int((path / "energy_uj").read_text())
            except (OSError, ValueError):
                continue
    return found


def _difference(path: Path, before: int, after: int) -> int:
    """Counters start again from zero at a limit."""
    return after - before if after >= before else after - before + int((path / "max_energy_range_uj").read_text())
