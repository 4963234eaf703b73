"""Several processes, as `accelerate launch` starts them, train what one does, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import HELD_OUT, WORD_PROBLEMS


def trained(launcher: list[str], data: Path, out: Path, batch: int) -> list[float]:
    """The losses of a training by the program itself."""
    options = [
        "--base",
        WORD_PROBLEMS / "base",
        "--out",
        out,
        "--steps",
        3,
        "--batch-size",
        batch,
        "--learning-rate",
        1e-3,
    ]
    command = [sys.executable, *launcher, "-m", "edgereason", "train", "guidance", data, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a PEFT adapter for edgereason export") == 1
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_two_processes_train_what_one_does_with_twice_the_batch(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(HELD_OUT.read_text(encoding="utf-8").splitlines(keepends=True)[:12]))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = trained(launcher, data, tmp_path / "two", batch=2)
    one = trained([], data, tmp_path / "one", batch=4)
    assert two == pytest.approx(one, rel=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "one", "two"]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["schedule"]["processes"] == 2
