"""Directories that take another's place: in one step or in two, all or nothing, whatever a killed process has left."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from edgereason import publishing
from edgereason.errors import BundleError, ExportError
from edgereason.publishing import exchange, new_directory, publish, recover, unfinished

NAMES = ["out", "a[b]*", "out?", ".hidden"]


def made(directory: Path, text: str) -> Path:
    directory.mkdir()
    (directory / "file").write_text(text)
    return directory


def texts(directory: Path) -> dict[str, str]:
    """The text of each `file`, by the name of its directory."""
    return {path.name: (path / "file").read_text() for path in directory.iterdir()}


def in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "exchange", lambda first, second: False)


def test_two_directories_are_exchanged(tmp_path: Path) -> None:
    if not exchange(made(tmp_path / "a", "first"), made(tmp_path / "b", "second")):
        pytest.skip("this system cannot exchange directories")
    assert texts(tmp_path) == {"a": "second", "b": "first"}


def test_an_exchange_that_fails_is_an_error(tmp_path: Path) -> None:
    if not exchange(made(tmp_path / "a", "first"), made(tmp_path / "b", "second")):
        pytest.skip("this system cannot exchange directories")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nowhere")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_disk_that_cannot_exchange_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: Any) -> int:
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *names, **options: SimpleNamespace(renameat2=refuse, renamex_np=refuse))
    publish(made(tmp_path / "new", "new"), made(tmp_path / "out", "old"), replace=True)
    assert texts(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("two_steps", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_directory_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, two_steps: bool
) -> None:
    if two_steps:
        in_two_steps(monkeypatch)
    for text in ("first", "second"):
        with new_directory(tmp_path / name, replace=True) as directory:
            (directory / "file").write_text(text)
        assert texts(tmp_path) == {name: text}


@pytest.mark.parametrize("name", NAMES)
def test_what_was_moved_aside_gets_its_name_back(tmp_path: Path, name: str) -> None:
    made(tmp_path / f".{name}.123.old", "old")
    recover(tmp_path / name)
    assert texts(tmp_path) == {name: "old"}


def test_what_was_moved_aside_goes_where_its_name_is_taken(tmp_path: Path) -> None:
    made(tmp_path / ".out.123.old", "old")
    made(tmp_path / "out", "new")
    recover(tmp_path / "out")
    assert texts(tmp_path) == {"out": "new"}


def test_where_the_second_step_fails_the_first_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_two_steps(monkeypatch)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        publish(made(tmp_path / "new", "new"), made(tmp_path / "out", "old"), replace=True)
    assert texts(tmp_path) == {"new": "new", "out": "old"}


@pytest.mark.parametrize("name", NAMES)
def test_what_killed_processes_left_is_removed(tmp_path: Path, name: str) -> None:
    for key in ("1", "2"):
        made(tmp_path / f".{name}.{key}.partial", "unfinished")
    made(tmp_path / "untouched", "another's")
    with unfinished(tmp_path / name, "key") as place:
        assert [path.name for path in place.iterdir()] == ["lock"]
    assert texts(tmp_path) == {"untouched": "another's"}


def test_one_process_at_a_time_writes_a_directory(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out", "first") as place:
        made(place / "work", "mine")
        for key in ("first", "second"):
            with pytest.raises(ExportError, match="Another process is writing"), unfinished(tmp_path / "out", key):
                pass
        assert (place / "work" / "file").read_text() == "mine"
        assert list(tmp_path.iterdir()) == [place]
        with unfinished(tmp_path / "other", "first"):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "cure"),
    [(errno.ENOSPC, "Free some space"), (errno.EROFS, "where you may"), (errno.EACCES, "may")],
)
def test_what_the_disk_refuses_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cure: str
) -> None:
    def refuse(self: Path, *arguments: Any, **options: Any) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ExportError) as caught, new_directory(tmp_path / "out"):
        pass
    assert caught.value.what == f"{tmp_path / 'out'} could not be written: {os.strerror(code)}."
    assert cure in caught.value.cure


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_what_a_library_in_rust_says_of_the_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"written: No space left on device\."), new_directory(tmp_path / "out"):
        Tokenizer(models.BPE()).save("/dev/full")
    assert list(tmp_path.iterdir()) == []


def test_errors_for_people_and_defects_are_left_alone(tmp_path: Path) -> None:
    for error in (BundleError("x cannot be read: No such file or directory (os error 2)."), ValueError("out of range")):
        with pytest.raises(type(error)) as caught, new_directory(tmp_path / "out"):
            raise error
        assert caught.value is error


def test_what_belongs_to_a_longer_name_stays(tmp_path: Path) -> None:
    """ ".my.bundle.KEY.old" is of "my.bundle", and nobody's business who writes "my"."""
    made(tmp_path / ".my.bundle.123.old", "the only copy")
    made(tmp_path / ".my.bundle.0123abcd.partial", "hours of work")
    with new_directory(tmp_path / "my") as directory:
        (directory / "file").write_text("new")
    with unfinished(tmp_path / "my", "key"):
        pass
    assert texts(tmp_path) == {
        ".my.bundle.123.old": "the only copy",
        ".my.bundle.0123abcd.partial": "hours of work",
        "my": "new",
    }


@pytest.mark.parametrize("known", [True, False])
def test_what_has_come_to_the_name_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if not known:  # a system that cannot tell in the same step
        monkeypatch.setattr(publishing, "_renamed", lambda *arguments: False)
    with pytest.raises(ExportError, match="exists already"), new_directory(tmp_path / "out"):
        made(tmp_path / "out", "precious")
    assert texts(tmp_path) == {"out": "precious"}
