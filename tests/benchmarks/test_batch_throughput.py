"""The comparison of batches with questions asked one by one, from end to end on the smallest shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "batch.py"


def test_sizes_are_measured_in_turn(tmp_path: Path) -> None:
    out = tmp_path / "batch.json"
    command = [sys.executable, str(PROGRAM), "--pair", "tiny", "--sizes", "4", "8", "--rounds", "1", "--threads", "1"]
    command += ["--layouts", "shared", "--tokens", "6", "--build", str(tmp_path), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone, *together = json.loads(out.read_text())["runs"]
    assert (alone["size"], alone["ratio"]) == (1, 1)
    assert [run["size"] for run in together] == [4, 8]
    for run in together:
        assert run["ratio"] == pytest.approx(run["questions_s"] / alone["questions_s"])
        assert run["tokens_s"] == pytest.approx(12 * run["questions_s"])
