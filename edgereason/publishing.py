"""Directories that appear whole or not at all, also in place of another; what killed processes left is put right.

    .NAME.KEY.partial/    where NAME is written, locked meanwhile
    .NAME.PID.old/        what was at NAME, where the system cannot exchange two directories in one step

Both lie beside NAME, on its disk.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgereason.errors import EdgeReasonError, ExportError
from edgereason.files import sync

_FROM_HERE = -100
"""`AT_FDCWD` of fcntl.h: paths are relative to the working directory."""
_EXCHANGE = 2
"""`RENAME_EXCHANGE` of Linux's renameat2(2), and `RENAME_SWAP` of macOS's renamex_np(2)."""
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system answers that does not know how."""
_NEW_ON_LINUX, _NEW_ON_MACOS = 1, 4
"""`RENAME_NOREPLACE` and `RENAME_EXCL`."""
_LOCK = "lock"


@contextmanager
def new_directory(out: Path, replace: bool = False) -> Iterator[Path]:
    """A directory to write into that becomes `out` when the block ends well, and vanishes when it does not.

    Raises:
        ExportError: `out` exists and is not to be replaced, another process is writing it, or the disk is full or
            refuses.
    """
    with told_write_errors(out), unfinished(out, "new") as place:
        if os.path.lexists(out) and not replace:
            raise _exists(out)
        complete = place / "directory"
        complete.mkdir()
        yield complete
        publish(complete, out, replace)


@contextmanager
def told_write_errors(out: Path) -> Iterator[None]:
    """Say what keeps the block from writing the directory `out`.

    Raises:
        ExportError: the disk is full or refuses.
    """
    try:
        yield
    except EdgeReasonError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _rusts_code(error)
        if code is None and not isinstance(error, OSError):
            raise
        reason = os.strerror(code) if code else str(error)
        full = code in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
        raise ExportError(
            f"{out} could not be written: {reason}.",
            "Free some space, or write to another disk." if full else "Write to a directory where you may make files.",
        ) from error


def _rusts_code(error: Exception) -> int | None:
    """The system's error code in an error of a library in Rust, such as tokenizers, which has it in its words alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


@contextmanager
def unfinished(out: Path, key: str, resume: bool = False) -> Iterator[Path]:
    """The hidden directory `.NAME.KEY.partial` beside `out`, to work in; one process at a time writes `out`.

    What killed processes have left beside `out` is put right first: an `out` that one of them had moved aside is there
    again, and their hidden directories are gone. At the end of the block this one is gone, too.

    Args:
        out: What is going to be written.
        key: Tells this work from other work of the same name.
        resume: Go on with what an earlier process of the same key has left, and leave it when the block fails.

    Raises:
        ExportError: another process is writing `out`.
        OSError: the disk is full or refuses.
    """
    place = out.absolute().with_name(f".{out.name}.{key}.partial")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # it was there, and was removed by the process that had it
        raise _busy(out) from error
    with _locked(place, out) as dropped:
        keep = False
        try:
            # Of two processes at least one sees the other, for each has its own lock before it looks.
            for other in _beside(out, "partial"):
                if other != place:
                    with _locked(other, out) as theirs:
                        theirs.append(other)
            if not resume:
                _clear(place)
            recover(out)
            keep = resume
            yield place
            keep = False
        finally:
            if not keep:
                dropped.append(place)


def recover(out: Path) -> None:
    """Put right what a process has left that was killed while it replaced `out` in two steps.

    What it had moved aside gets its name back if nothing has that name, and is removed otherwise. Only for a process
    that alone writes `out`.

    Raises:
        OSError: the disk refuses.
    """
    for old in _beside(out, "old"):
        if os.path.lexists(out):
            _remove(old)
        else:
            old.rename(out)


def publish(complete: Path, out: Path, replace: bool = False) -> None:
    """Force a directory to the disk and give it its final name.

    Where the system can, it is exchanged in one step with what has the name. Elsewhere it takes two, between which
    nothing has the name; `recover` undoes the first of them.

    Args:
        complete: The directory.
        out: Its final name.
        replace: Whether what has this name goes.

    Raises:
        ExportError: something has the name by now, and is not to be replaced.
        OSError: the disk is full or refuses; what was at `out` is there still.
    """
    for file in complete.rglob("*"):
        sync(file)
    sync(complete)
    old = complete
    if not replace:
        try:
            _rename_new(complete, out)
        except FileExistsError as error:
            raise _exists(out) from error
    elif not os.path.lexists(out):
        complete.rename(out)
    elif not exchange(complete, out):
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        out.rename(old)
        try:
            complete.rename(out)
        except OSError:
            old.rename(out)
            raise
    sync(out.parent)
    _remove(old)


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or directories in one step; False where the system or the disk cannot.

    renameat2(2) of Linux and renamex_np(2) of macOS; Windows has nothing of the kind.

    Raises:
        OSError: the disk refuses.
    """
    return _renamed(first, second, _EXCHANGE, _EXCHANGE)


def _rename_new(first: Path, second: Path) -> None:
    """Rename, unless something has the new name: told by the system in the same step where it can."""
    if not _renamed(first, second, _NEW_ON_LINUX, _NEW_ON_MACOS):
        if os.path.lexists(second):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(second))
        first.rename(second)


def _renamed(first: Path, second: Path, on_linux: int, on_macos: int) -> bool:
    """Rename with the flags of renameat2(2) or renamex_np(2); False where the system or the disk does not know them."""
    if sys.platform not in ("linux", "darwin"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        status = library.renameat2(_FROM_HERE, names[0], _FROM_HERE, names[1], on_linux)
    elif hasattr(library, "renamex_np"):
        status = library.renamex_np(*names, on_macos)
    else:
        return False
    code = ctypes.get_errno()
    if status != 0 and code not in _CANNOT:
        raise OSError(code, os.strerror(code), str(second))
    return bool(status == 0)


def moved_aside(out: Path) -> list[Path]:
    """What killed processes have moved aside while they replaced `out`, the newest first."""
    return _beside(out, "old")


def _beside(out: Path, kind: str) -> list[Path]:
    """The hidden directories of a kind that belong to `out`, the newest first."""

    def changed(path: Path) -> float:
        with suppress(OSError):  # another process has removed it
            return path.stat().st_mtime
        return 0.0

    place = out.absolute()
    # One key between the dots: ".my.bundle.KEY.old" belongs to "my.bundle", and not to "my".
    name = re.compile(rf"\.{re.escape(place.name)}\.[^.]+\.{kind}")
    candidates = place.parent.iterdir() if place.parent.is_dir() else iter(())
    found = [path for path in candidates if name.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=changed, reverse=True)


@contextmanager
def _locked(place: Path, out: Path) -> Iterator[list[Path]]:
    """Hold the lock of a hidden directory; yields a list, and removes the directory if it is in there at the end."""
    from filelock import FileLock, Timeout  # who only opens bundles need not have it

    lock = FileLock(place / _LOCK, blocking=False)
    try:
        lock.acquire()
        if not (place / _LOCK).exists():  # it was removed, with its directory, by the process that had it
            lock.release()
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    except (Timeout, FileNotFoundError) as error:
        raise _busy(out) from error
    except OSError:
        with suppress(OSError):
            place.rmdir()  # where it is still empty, for no file could be made
        raise
    except NotImplementedError as error:
        raise ExportError(f"{out} is on a disk that cannot lock files.", "Give an --out on another disk.") from error
    dropped: list[Path] = []
    try:
        yield dropped
    finally:
        if dropped:
            _clear(place)
            if os.name != "nt":
                _remove(place)
        lock.release()
        if dropped and os.name == "nt":  # where a file that is open stays, and so what another process has locked
            with suppress(OSError):
                (place / _LOCK).unlink()
                place.rmdir()


def _busy(out: Path) -> ExportError:
    return ExportError(f"Another process is writing {out}.", "Wait for it, or write to another directory.")


def _exists(out: Path) -> ExportError:
    return ExportError(f"{out} exists already.", "Give another directory, or remove it first.")


def _clear(place: Path) -> None:
    """Remove all that is in a hidden directory but its lock."""
    with suppress(OSError):
        for entry in place.iterdir():
            if entry.name != _LOCK:
                _remove(entry)


def _remove(path: Path) -> None:
    """Remove a file or a directory with all that is in it, as far as it can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
