"""Nothing leaves the machine: `ask` opens no socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCHED = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(f"a socket call: {event} {arguments}")

sys.addaudithook(refuse)
from edgereason.cli.app import main
main()
"""


def test_ask_calls_no_socket_function(native_bundle: Path) -> None:
    arguments = ["ask", "How many?", "--bundle", str(native_bundle), "--json", "--max-tokens", "3"]
    done = subprocess.run([sys.executable, "-c", WATCHED, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "native"


def test_the_watcher_notices_sockets() -> None:
    code = WATCHED.replace("from edgereason.cli.app import main\nmain()", "import socket; socket.socket()")
    assert "a socket call" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_ask_answers_where_there_is_no_network(native_bundle: Path) -> None:
    if os.name == "nt" or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a network namespace")
    arguments = ["ask", "How many?", "--bundle", str(native_bundle), "--json", "--max-tokens", "3"]
    command = ["unshare", "-n", sys.executable, "-m", "edgereason", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["timings"]["answer"]["new_tokens"] >= 1
