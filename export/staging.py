"""The directory of an unfinished bundle, which an interrupted export can resume.

    .my.bundle.KEY.partial/
      bundle/          becomes my.bundle
      work/            temporary files of writers, such as quantized layers
      finished.json    the finished steps and their results

KEY is a hash of all inputs and settings, so that only an export of the same bundle is resumed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgereason.errors import ExportError
from edgereason.files import new_file, publish, read_json, told_write_errors, write_json


@dataclass(frozen=True)
class Staging:
    """An unfinished export.

    Attributes:
        path: The bundle's directory while it is written.
    """

    path: Path

    def once(self, step: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a step unless it was finished before the export was interrupted.

        Args:
            step: Its name, which is also the directory inside `path` that it writes.
            run: Does the work and returns JSON.

        Returns:
            The step's result, now or then.
        """
        finished = self._finished()
        if step not in finished:
            shutil.rmtree(self.path / step, ignore_errors=True)
            (self.path / step).mkdir()
            finished[step] = run()
            with new_file(self._record) as partial:
                write_json(partial, finished)
            shutil.rmtree(self.path.parent / "work" / step, ignore_errors=True)
        value: dict[str, Any] = finished[step]
        return value

    def work(self, step: str) -> Path:
        """A directory outside of the bundle for work that a step resumes after an interruption."""
        directory = self.path.parent / "work" / step
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @property
    def _record(self) -> Path:
        return self.path.parent / "finished.json"

    def _finished(self) -> dict[str, Any]:
        return read_json(self._record) if self._record.is_file() else {}


@contextmanager
def staged(out: Path, key: object, resume: bool = False, replace: bool = False) -> Iterator[Staging]:
    """A directory to write a bundle into; it becomes `out` when the block succeeds.

    When the block fails, the directory is removed, or with `resume` kept for the next export of the same key. What a
    killed export has left is resumed with `resume`, and removed without.

    Args:
        out: The bundle's directory.
        key: JSON that differs whenever the bundle differs.
        resume: Resume unfinished work, and keep it when the block fails.
        replace: Replace what is at `out`.

    Raises:
        ExportError: `out` exists and is not to be replaced, another export is writing there, or the disk is full.
    """
    mine = False
    place = out.absolute().with_name(f".{out.name}.{_digest(key)}.partial")
    try:
        with told_write_errors(out, replace):
            for other in sorted(place.parent.glob(f".{out.name}.*.partial")):
                if other != place or not resume:
                    _remove(other, out)
            place.mkdir(parents=True, exist_ok=True)
            with _locked(place, out):
                mine = True
                (place / "bundle").mkdir(exist_ok=True)
                yield Staging(place / "bundle")
                publish(place / "bundle", out)
            shutil.rmtree(place, ignore_errors=True)  # the lock is in it, so after it was given back
    finally:
        if mine and not resume:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _locked(place: Path, out: Path) -> Iterator[None]:
    lock = FileLock(place / "lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ExportError(f"Another export is writing {out}.", "Wait for it, or give another --out.") from error
    try:
        yield
    finally:
        lock.release()


def _remove(place: Path, out: Path) -> None:
    """Remove what a killed export has left."""
    with _locked(place, out):
        pass
    shutil.rmtree(place, ignore_errors=True)


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
