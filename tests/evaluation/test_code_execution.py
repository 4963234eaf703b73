"""Programs of the kind that models write: right ones pass, wrong and harmful ones fail, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
import socket
import sys
import time
from pathlib import Path

import pytest
from shared_data import shared

from edgereason.evaluation.code_execution import passes
from edgereason.problems.records import Problem, read_problems

ADD = Problem('def add(a, b):\n    """Add."""\n', "def check(f):\n    assert f(1, 2) == 3\n\ncheck(add)\n", "code")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("    return a + b\n", True),
        ("def add(a, b):\n    return a + b\n", True),
        ("import math\n\ndef add(a, b):\n    return math.fsum([a, b])", True),
        ("    return a - b\n", False),
        ("    return a +\n", False),
        ("", False),
        ("    raise SystemExit(1)\n", False),
        ("    raise SystemExit(0)\n", False),
        ("    import os\n    os._exit(0)\n", False),
        ("def add(a, b):\n    return a - b\n\nraise SystemExit", False),
    ],
)
def test_the_tests_decide(answer: str, right: bool) -> None:
    assert passes(ADD, answer) is right


def test_an_endless_program_is_ended() -> None:
    begin = time.monotonic()
    assert not passes(ADD, "    while True: pass\n", time_s=0.5)
    assert time.monotonic() - begin < 5


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the system")
def test_memory_is_limited() -> None:
    assert not passes(ADD, "    x = bytearray(900_000_000)\n    return a + b\n", memory_mb=400)


@pytest.mark.parametrize(
    "harm",
    [
        "open({path!r}, 'w').write('x')",
        "__import__('os').open({path!r}, 0o101)",
        "__import__('os').mkdir({path!r})",
        "__import__('os').rename('answer.py', {path!r})",
        "__import__('shutil').copy('answer.py', {path!r})",
        "__import__('os').system('touch ' + {path!r})",
        "__import__('subprocess').run(['touch', {path!r}])",
        "__import__('ctypes').CDLL(None)",
        "__import__('os').fork()",
    ],
)
def test_harm_is_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "written"
    assert not passes(ADD, f"    {harm.format(path=str(path))}\n    return a + b\n")
    assert not path.exists()


def test_files_beside_the_program_may_be_written() -> None:
    assert passes(ADD, "    open('notes', 'w').write('x')\n    return a + b\n")


def test_the_network_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        answer = f"    __import__('socket').create_connection(('127.0.0.1', {port}), 1)\n    return a + b\n"
        assert not passes(ADD, answer)
        with pytest.raises(TimeoutError):
            server.accept()


def test_humaneval_accepts_its_own_solutions() -> None:
    path = shared("data/humaneval/HumanEval.jsonl.gz")
    entries = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    chosen = list(zip(read_problems(path), entries, strict=True))[::12]
    for problem, entry in chosen:
        assert passes(problem, entry["canonical_solution"]), entry["task_id"]
        assert not passes(problem, "    return None\n"), entry["task_id"]
