"""The child process of `code_execution.py`: give up what the program does not need, then run it.

    python -I -S -B confined_process.py SECONDS MEGABYTES PROGRAM

Only the standard library is used, and nothing of ours, so that it starts in isolation.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from pathlib import Path

PASSED = 86
"""How the process ends where the program has run to its end. One that ends itself has not come to its tests."""

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # from Linux' sched.h
_REFUSED = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.fork",
    "os.kill",
    "ctypes.",
)
_CHANGING = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "shutil.",
)


def limit(seconds: float, megabytes: int) -> None:
    """Limits of the system on processor time, memory, size and number of files, and processes."""
    try:
        import resource
    except ImportError:  # Windows has none of them: time and the hooks below are all there is
        return
    whole = int(seconds) + 1
    for name, value in (
        ("RLIMIT_CPU", whole),
        ("RLIMIT_AS", megabytes * 1_000_000),
        ("RLIMIT_FSIZE", 10_000_000),
        ("RLIMIT_NOFILE", 32),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))


def leave_the_network() -> None:
    """A network namespace of our own, which has no interface that is up; where the system allows it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)


def refuse_events(directory: str) -> None:
    """Python's audit events of what an answer has no need for become errors."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_REFUSED):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and _writes(arguments):
            _inside(directory, arguments[0])
        if event.startswith(_CHANGING):
            for path in arguments:
                if isinstance(path, (str, bytes)):
                    _inside(directory, path)

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _inside(directory: str, path: object) -> None:
    if not isinstance(path, (str, bytes)):
        raise PermissionError("only paths are allowed here")
    real = os.path.realpath(os.fsdecode(path))
    if os.path.commonpath([real, directory]) != directory:
        raise PermissionError(f"{real} lies outside of {directory}")


def main() -> None:
    seconds, megabytes, program = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    limit(seconds, megabytes)
    leave_the_network()
    refuse_events(str(Path.cwd().resolve()))
    runpy.run_path(program, run_name="__main__")
    sys.exit(PASSED)


if __name__ == "__main__":
    main()
