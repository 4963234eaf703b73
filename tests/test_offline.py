"""Nothing leaves the machine: `ask` opens no socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgereason.export import FORMATS, export

WATCHED = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(f"a socket call: {event} {arguments}")

sys.addaudithook(refuse)
from edgereason.cli.app import main
main()
"""


@pytest.fixture(scope="module", params=FORMATS)
def bundle(request: pytest.FixtureRequest, trio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("offline") / request.param
    export(trio["base"], trio["guidance"], trio["answer"], out, format=request.param, verify=False)
    return out


def ask(bundle: Path) -> list[str]:
    return ["ask", "How many?", "--bundle", str(bundle), "--json", "--max-tokens", "3"]


def test_ask_calls_no_socket_function(bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED, *ask(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["timings"]["answer"]["new_tokens"] >= 1


def test_the_watcher_notices_sockets() -> None:
    code = WATCHED.replace("from edgereason.cli.app import main\nmain()", "import socket; socket.socket()")
    assert "a socket call" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_ask_answers_where_there_is_no_network(bundle: Path) -> None:
    if os.name == "nt" or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")
    command = ["unshare", "-n", sys.executable, "-m", "edgereason", *ask(bundle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["timings"]["answer"]["new_tokens"] >= 1
