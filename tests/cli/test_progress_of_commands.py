"""Long commands say how far they are where standard error is no terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgereason.bundle import DEFAULT_BUNDLE

EVAL = ("eval", str(DEFAULT_BUNDLE), "--data", "held-out", "--limit", "6", "--threads", "1", "--batch-size", "1")


def errors_of(arguments: Sequence[str | Path], interval: str) -> list[str]:
    """The lines that a command writes to a pipe as its standard error."""
    command = [sys.executable, "-m", "edgereason", *map(str, arguments)]
    environment = {**os.environ, "EDGEREASON_LOG_INTERVAL": interval}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_machines_get_objects_while_work_goes_on_and_at_its_end() -> None:
    found = [json.loads(line) for line in errors_of(("--log-json", *EVAL), "0.01")]
    step = f"evaluating {DEFAULT_BUNDLE}"
    assert {(each["command"], each["step"]) for each in found} == {("eval", step)}
    assert all({"time", "done", "total", "seconds_left"} <= set(each) for each in found)
    assert (found[0]["done"], found[0]["total"], found[0]["seconds_left"]) == (0, None, None)  # loading
    under_way = [each for each in found if each["total"] == 6 and 0 < each["done"] < 6]
    assert under_way
    assert all(each["seconds_left"] > 0 for each in under_way)
    ended = [each for each in found if each["done"] == 6]
    assert [(each["seconds_left"], bool(re.fullmatch(r"[\d.]+% right", each["detail"]))) for each in ended] == [
        (0.0, True)
    ]


def test_people_get_lines_without_control_characters() -> None:
    lines = errors_of(EVAL, "0.01")
    assert any(re.search(r": [1-5] of 6 \(\d+%\), [\d.]+% right, \d+ s left$", line) for line in lines)
    assert re.search(r": 6 of 6 \(100%\), [\d.]+% right, done$", "\n".join(lines), re.MULTILINE)
    assert not any("\x1b" in line or "\r" in line for line in lines)


@pytest.mark.parametrize(("name", "number"), [("batch", 2), ("calibrate", 100), ("bench", 0)])
def test_other_commands_do_so_as_well(name: str, number: int, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Tom has 12 apples and eats 5. How many are left?", "result": "7"}\n' * number)
    commands: dict[str, tuple[str | Path, ...]] = {
        "batch": ("batch", questions, tmp_path / "results.jsonl"),
        "calibrate": ("calibrate", "--known", questions, "--other", questions, "--json"),
        "bench": ("bench", "--questions", "1", "--rounds", "1"),
    }
    lines = errors_of(("--log-json", *commands[name]), "60")
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert found
    assert {each["command"] for each in found} == {name}
    assert all(each["done"] == each["total"] > 0 for each in found)


def test_an_export_reports_each_step(trio: dict[str, Path], tmp_path: Path) -> None:
    inputs = ("--base", trio["base"], "--guidance-adapter", trio["guidance"], "--answer-adapter", trio["answer"])
    lines = errors_of(("--log-json", "export", *inputs, "--out", tmp_path / "bundle", "--no-verify"), "60")
    steps = [each["step"] for each in (json.loads(line) for line in lines if line.startswith("{"))]
    assert len(steps) == len(set(steps)) >= 2
    assert {step.split(":")[0] for step in steps} == {"guidance", "answer"}
