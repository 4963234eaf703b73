"""Files that are written whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgereason.files import new_file

NAMES = ["out.json", "a[b]*.json", ".hidden"]

KILLED = """
import os, sys
from pathlib import Path
from edgereason.files import new_file
with new_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os._exit(9)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_replaced_when_it_is_complete(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_text("before")
    with new_file(out) as partial:
        partial.write_text("new")
        assert out.read_text() == "before"
    assert out.read_text() == "new"
    with pytest.raises(TypeError), new_file(out) as partial:
        partial.write_text(partial.write_text("half"))  # type: ignore[arg-type]
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell which processes there are")
@pytest.mark.parametrize("name", NAMES)
def test_what_a_killed_process_left_vanishes_with_the_next(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_text("before")
    assert subprocess.run([sys.executable, "-c", KILLED, out], check=False).returncode == 9
    assert out.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 2
    with new_file(out) as partial:
        partial.write_text("new")
    assert out.read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    running = tmp_path / f".out.{os.getppid()}.partial"
    others = [running, tmp_path / ".out.0123456789abcdef.partial", tmp_path / ".another.1.partial"]
    for other in others:
        other.write_text("half")
    (tmp_path / ".out.1234567.partial").mkdir()
    with new_file(tmp_path / "out") as partial:
        partial.write_text("new")
    assert all(other.read_text() == "half" for other in others)
    assert (tmp_path / ".out.1234567.partial").is_dir()
