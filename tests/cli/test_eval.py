"""`edgereason eval` as its users meet it: tables, files, refusals, and going on after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import HELD_OUT

from edgereason.bundle import DEFAULT_BUNDLE

PROGRAM = [sys.executable, "-m", "edgereason", "eval"]
HELD_OUT = HELD_OUT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "EDGEREASON_DATA"}
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_one_bundle_has_one_file_and_another_way_is_compared_with_it(tmp_path: Path) -> None:
    two, one = tmp_path / "two.json", tmp_path / "one.json"
    asked = (DEFAULT_BUNDLE, "--data", HELD_OUT, "--limit", "8")
    done = run(*asked, "--json", two)
    assert done.returncode == 0, done.stderr
    report = json.loads(two.read_text())
    fields = {"question", "guidance", "answer", "final", "expected", "correct", "structure"}
    assert [set(row) for row in report["rows"]] == [fields] * 8
    assert f"{report['correct']}/8" in done.stdout
    done = run(*asked, "--mode", "guidance-only", "--json", one, "--against", two)
    other = json.loads(one.read_text())
    assert all(row["answer"] == "" for row in other["rows"])
    assert other["against"]["difference"] == other["accuracy"] - report["accuracy"]
    assert f"against {two}: {100 * other['against']['difference']:+.1f} points" in done.stdout


def test_several_bundles_have_a_file_each_and_are_compared_with_the_first(tmp_path: Path, native_bundle: Path) -> None:
    noise = shutil.copytree(native_bundle, tmp_path / "noise")
    out = tmp_path / "reports"
    done = run(DEFAULT_BUNDLE, noise, "--data", HELD_OUT, "--limit", "6", "--max-tokens", "40", "--json", out)
    assert done.returncode == 0, done.stderr
    assert {each.name for each in out.iterdir()} == {f"{DEFAULT_BUNDLE.name}.json", "noise.json"}
    found = json.loads((out / "noise.json").read_text())
    assert found["against"]["other"] == str(DEFAULT_BUNDLE)
    assert f"wrong alone on {found['against']['only_other']}" in done.stdout
    assert "structure" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "gsm8k"], "gsm8k is looked up in a directory of data sets, and none is given."),
        (["--data", "nothing"], "nothing is neither a file nor a data set."),
        (["--data", str(HELD_OUT), "--mode", "three-stage"], "There is no mode 'three-stage'."),
        (["--data", str(HELD_OUT), "--resume"], "--resume needs a file to continue."),
        (["--data", str(HELD_OUT), "--limit", "0"], "limit is 0."),
        (["--data", str(HELD_OUT), "--against", "none.json"], "none.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(arguments: list[str], message: str) -> None:
    done = run(DEFAULT_BUNDLE, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_programs_are_refused_unless_allowed(tmp_path: Path) -> None:
    code = tmp_path / "code.jsonl"
    code.write_text(json.dumps({"prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f()"}))
    done = run(DEFAULT_BUNDLE, "--data", code)
    assert done.returncode == 2
    assert "--allow-code" in done.stderr
    assert "0/1" in run(DEFAULT_BUNDLE, "--data", code, "--allow-code", "--max-tokens", "8").stdout


@pytest.mark.skipif(os.name == "nt", reason="signals of another kind")
def test_the_same_command_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    path, whole = tmp_path / "report.json", tmp_path / "whole.json"
    command = [DEFAULT_BUNDLE, "--data", HELD_OUT, "--threads", "1", "--resume", "--json"]
    process = subprocess.Popen(
        [*PROGRAM, *map(str, [*command, path])],
        stderr=subprocess.PIPE,
        text=True,
        # A suite started in the background ignores the signal, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"--resume continues from {path}" in errors
    assert "Traceback" not in errors
    begun = json.loads(path.read_text())
    assert not begun["complete"]
    assert begun["total"] > 0
    assert run(*command, path).returncode == 0
    assert run(*command, whole).returncode == 0
    assert json.loads(path.read_text()) == json.loads(whole.read_text())
