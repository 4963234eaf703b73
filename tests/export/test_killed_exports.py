"""Wherever an export is killed or the disk is full, the bundle before is there or the new one; the next is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a place: what is tested are thousands of small files."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory)) if os.access(memory, os.W_OK) else tmp_path
    yield made
    shutil.rmtree(made)


def test_an_export_may_end_at_every_change_of_a_file(directory: Path) -> None:
    command = [sys.executable, ROOT / "tests" / "killed_exports.py", directory]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.endswith(" changes")] == [], done.stderr
    counts = [int(line.split()[-2]) for line in lines]
    assert len(counts) == 3
    assert min(counts) > 40
