"""The directory of an unfinished bundle, which an interrupted export can resume.

    .my.bundle.KEY.partial/
      bundle/          becomes my.bundle
      work/            temporary files of writers, such as quantized layers
      finished.json    the finished steps: their results, and the files that they have written

KEY is a hash of all inputs and settings, so that only an export of the same bundle is resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereason.bundle import CACHE, MANIFEST, Bundle, FileRecord, record_files
from edgereason.errors import BundleError, ExportError
from edgereason.files import new_file, read_json, write_json
from edgereason.publishing import publish, told_write_errors, unfinished


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
            result = run()
            files = {name: vars(record) for name, record in record_files(self.path / step).items()}
            finished[step] = {"result": result, "files": files}
            with new_file(self._record) as partial:
                write_json(partial, finished)
            shutil.rmtree(self.path.parent / "work" / step, ignore_errors=True)
        value: dict[str, Any] = finished[step]["result"]
        return value

    def work(self, step: str) -> Path:
        """A directory outside of the bundle for work that a step resumes after an interruption."""
        directory = self.path.parent / "work" / step
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def files(self) -> dict[str, FileRecord]:
        """Sizes and sums of the bundle's files; those of finished steps are known."""
        known = {
            f"{step}/{name}": FileRecord(**record)
            for step, done in self._finished().items()
            for name, record in done["files"].items()
        }
        return record_files(self.path, known)

    def keep_finished(self) -> None:
        """Forget the steps whose files are not as they left them, and remove all that no finished step has written.

        A process may have been killed after it had given the bundle its name, or after a power failure files may be
        shorter than they were.
        """
        finished = self._finished()
        sound = {
            step: done
            for step, done in finished.items()
            if {name: vars(record) for name, record in _found(self.path / step, done["files"]).items()} == done["files"]
        }
        if sound != finished:
            with new_file(self._record) as partial:
                write_json(partial, sound)
        for entry in self.path.iterdir():
            if entry.name not in sound:
                _remove(entry)
                continue
            for file in [each for each in entry.rglob("*") if not each.is_dir()]:
                if file.relative_to(entry).as_posix() not in sound[entry.name]["files"]:
                    file.unlink()

    @property
    def _record(self) -> Path:
        return self.path.parent / "finished.json"

    def _finished(self) -> dict[str, Any]:
        try:
            return {step: {"result": done["result"], "files": done["files"]} for step, done in self._read().items()}
        except (BundleError, TypeError, KeyError):  # cut short, or written by another version: the work is done again
            return {}

    def _read(self) -> dict[str, Any]:
        return read_json(self._record) if self._record.is_file() else {}


@contextmanager
def staged(
    out: Path, key: object, resume: bool = False, replace: bool = False, inputs: Iterable[Path] = ()
) -> Iterator[Staging]:
    """A directory to write a bundle into; it becomes `out` when the block succeeds.

    When the block fails, the directory is removed, or with `resume` kept for the next export of the same key. What a
    killed export has left is resumed with `resume`, and removed without.

    Args:
        out: The bundle's directory.
        key: JSON that differs whenever the bundle differs.
        resume: Resume unfinished work, and keep it when the block fails.
        replace: Replace the bundle at `out`.
        inputs: Files and directories that are read, and so are not to be replaced.

    Raises:
        ExportError: `out` is not to be replaced (see `check_out`), another export is writing there, or the disk is
            full or refuses.
    """
    inputs = tuple(inputs)
    check_out(out, replace, inputs)
    with told_write_errors(out), unfinished(out, _digest(key), resume) as place:
        check_out(out, replace, inputs)  # again: an earlier export, killed while it replaced a bundle, has it back
        (place / "bundle").mkdir(exist_ok=True)
        staging = Staging(place / "bundle")
        staging.keep_finished()
        yield staging
        check_out(out, replace, inputs)  # what has come there meanwhile
        publish(staging.path, out, replace)


def check_out(out: Path, replace: bool, inputs: Iterable[Path] = ()) -> None:
    """Make sure that a bundle may be written to `out`: nothing is there, or a bundle that is to be replaced.

    Args:
        out: Where the bundle is going to be.
        replace: Whether a bundle there is to be replaced.
        inputs: Files and directories that are read.

    Raises:
        ExportError: there is something else, an input is there or below, or a file that does not belong to the bundle.
    """
    if not os.path.lexists(out):
        return
    if out.is_symlink():
        raise ExportError(f"{out} is a link to {out.readlink()}.", "Give the directory itself as --out, or another.")
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            where = "is" if path.resolve() == out.resolve() else "holds"
            raise ExportError(f"{out} {where} an input of this export, {path}.", "Give another --out.")
    if not out.is_dir():
        raise ExportError(f"{out} is a file, and a bundle is a directory.", "Give another --out.")
    if not replace:
        raise ExportError(f"{out} exists already.", "Give another --out, or --force to replace it.")
    if out.resolve().is_mount():
        raise ExportError(f"{out} is where a disk is mounted.", "Give a directory inside of it as --out.")
    if any(out.iterdir()):
        _check_only_a_bundle(out)


def _check_only_a_bundle(out: Path) -> None:
    """Make sure that a directory is a bundle and holds nothing else."""
    try:
        files = Bundle.read(out).files
    except BundleError as error:
        raise ExportError(
            f"{out} is not replaced, for it cannot be read as a bundle: {error.what}",
            "Give another --out, or remove it yourself.",
        ) from error
    for directory, directories, names in os.walk(out):
        if Path(directory) == out and CACHE in directories:
            directories.remove(CACHE)
        links = [name for name in directories if (Path(directory) / name).is_symlink()]
        for path in sorted(Path(directory) / name for name in names + links):
            name = path.relative_to(out).as_posix()
            if name != MANIFEST and name not in files:
                raise ExportError(
                    f"{out} is not replaced, for {name} in it does not belong to the bundle.",
                    "Move that file elsewhere, or give another --out.",
                )


def _found(directory: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Sizes and sums of those files of a directory that are there."""
    found = record_files(directory) if directory.is_dir() else {}
    return {name: found[name] for name in names if name in found}


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
