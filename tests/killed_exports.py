"""Exports that end at each of their changes of a file, and what the next one makes of it. Prints what does not hold.

    python killed_exports.py DIRECTORY

Every export runs in a fork of this process, which has imported everything and started no thread. The process counts the
changes of files by Python's audit events (PEP 578).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE, TOLD, DEFECT, WHOLE, KILLED = 0, 1, 2, 3, 9
"""Statuses of a process: done though a change failed, an error for people, another error, without a failure, killed."""
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Tree = dict[str, str]


@dataclass(frozen=True)
class Scenario:
    """How the system exchanges directories, and how an export ends."""

    exchanges: bool
    """Whether the system exchanges two directories in one step."""
    end: Callable[[], None]


def kill() -> None:
    os._exit(KILLED)


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def change_of(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    """Whether an audit event is about a change of a file below `root`."""
    if event == "open":
        path, _, flags = arguments
        return isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(root) and bool(flags & WRITES)
    if event not in CHANGES:
        return False
    # shutil.rmtree names files by the descriptor of their directory.
    path = arguments[0]
    return isinstance(path, int) or not Path(os.fsdecode(path)).is_absolute() or os.fsdecode(path).startswith(root)


def ended_at(number: int, end: Callable[[], None], root: Path) -> Callable[[], bool]:
    """From now on count changes below `root`, and end before the one of this number, from 0; tells whether it came."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left >= 0 and change_of(event, arguments, str(root)):
            left -= 1
            if left < 0:
                end()

    sys.addaudithook(hook)
    return lambda: left < 0


def in_a_fork(work: Callable[[], None]) -> int:
    """Run it in a fork of this process; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    from edgereason.errors import EdgeReasonError

    status = DEFECT
    try:
        work()
        status = DONE
    except EdgeReasonError:
        status = TOLD
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def tree(directory: Path) -> Tree:
    """The sum of each file, by its path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class Exports:
    """Exports of one small base with two pairs of adapters, `old` and `new`, that are prepared once."""

    def __init__(self, directory: Path) -> None:
        from random_model import save_adapter, save_base

        from edgereason.export import export, exporter
        from edgereason.kernels import cpu
        from edgereason.text.prompts import ANSWER, GUIDANCE

        cpu.set_threads(1)
        self._export = export
        self._directory = directory
        base = directory / "base"
        save_base(base, num_hidden_layers=1)
        for seed, name in enumerate(("old", "new")):
            save_adapter(base, directory / name / "guidance", GUIDANCE, seed=10 + seed)
            save_adapter(base, directory / name / "answer", ANSWER, seed=20 + seed)
        self.trees = {name: tree(self._run(name, directory / "bundles" / name)) for name in ("old", "new")}
        # Opening base and adapters changes no file, and takes longer than the rest.
        prepare = exporter._prepare
        job = prepare(base, *self._adapters("new"), None, None, {}, exporter.Settings())
        exporter._prepare = lambda *arguments: job
        os.fsync = lambda handle: None  # a process that is killed takes nothing with it from the system's buffers

    def _adapters(self, name: str) -> tuple[Path, Path]:
        return self._directory / name / "guidance", self._directory / name / "answer"

    def _run(self, name: str, out: Path, **options: Any) -> Path:
        self._export(self._directory / "base", *self._adapters(name), out, verify=False, **options)
        return out

    def ended(self, number: int, scenario: Scenario, place: Path) -> int:
        """Export `new` to `place/out`, which ends at a change of a file; the process's status."""

        def work() -> None:
            exchange_as(scenario)
            came = ended_at(number, scenario.end, place)
            self._run("new", place / "out", replace=True, resume=bool(number % 2))
            if not came():
                os._exit(WHOLE)

        return in_a_fork(work)

    def next_one(self, place: Path, scenario: Scenario, resume: bool) -> str:
        """Export `new` to `place/out` once more; says what is wrong with it, if anything."""

        def work() -> None:
            exchange_as(scenario)
            self._run("new", place / "out", replace=True, resume=resume)

        if in_a_fork(work) != DONE:
            return "failed"
        if tree(place / "out") != self.trees["new"]:
            return "gave something else"
        left = sorted(path.name for path in place.iterdir())
        return "" if left == ["out"] else f"left {left}"


def exchange_as(scenario: Scenario) -> None:
    """From now on exchange directories in one step or in two."""
    from edgereason import publishing

    if not scenario.exchanges:
        publishing.exchange = lambda first, second: False


def contents(place: Path) -> tuple[tuple[str, str], ...]:
    """All that is in a directory, whichever process has written it."""
    found = tree(place)
    names = {path.relative_to(place).as_posix() for path in place.rglob("*")}
    return tuple(sorted((re.sub(r"\.\d+\.(?=partial|old)", ".", name), found.get(name, "")) for name in names))


def failures(exports: Exports, scenario: Scenario, directory: Path, known: dict[Any, str]) -> Iterator[str]:
    """What does not hold, each with the number of the change. Every other export is one that can be resumed.

    Args:
        exports: Makes exports.
        scenario: What is there before, and how an export ends.
        directory: Where to work.
        known: What the next export made of a place, by what was in it.
    """
    old, new = exports.trees["old"], exports.trees["new"]
    for number in itertools.count():
        place = directory / "place"
        place.mkdir()
        shutil.copytree(directory / "bundles" / "old", place / "out")
        status = exports.ended(number, scenario, place)
        found = tree(place / "out") if (place / "out").exists() else None
        aside = [tree(path) for path in place.glob(".out.*.old")]
        moved = found is None and old in aside and not scenario.exchanges
        if found not in (new, old) and not moved:
            yield f"{number}: what is at out is neither the bundle before nor the new one"
        if status == DEFECT or (status in (DONE, WHOLE) and found != new):
            yield f"{number}: the export ended with status {status}"
        for resume in (False, True):
            state = contents(place), resume
            if state not in known:
                again = Path(shutil.copytree(place, directory / "again"))
                known[state] = exports.next_one(again, scenario, resume)
                shutil.rmtree(again)
            if known[state]:
                yield f"{number}: the next export {known[state]} (resume={resume})"
        shutil.rmtree(place)
        if status == WHOLE:
            print(f"{scenario.end.__name__}: {number} changes")
            return


SCENARIOS = {
    "killed": Scenario(exchanges=True, end=kill),
    "killed in two steps": Scenario(exchanges=False, end=kill),
    "full disk": Scenario(exchanges=False, end=fill_the_disk),
}


def main() -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    exports = Exports(directory)
    known: dict[Any, str] = {}
    for name, scenario in SCENARIOS.items():
        for failure in failures(exports, scenario, directory, known):
            print(f"{name}: {failure}", flush=True)


if __name__ == "__main__":
    main()
