"""Running code that a model wrote, to see whether it passes a problem's tests.

Each program runs in a process of its own, in an empty directory that is deleted afterwards, without the caller's
environment, with limits on time, memory, files, processes and network (`confined_process.py`). This keeps mistakes of a
model from doing harm. It is no prison for a determined attacker: run the code of models that you do not trust in a
virtual machine.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from edgereason.evaluation.confined_process import PASSED
from edgereason.problems.records import Problem

TIME_S = 10.0
MEMORY_MB = 1024

_CONFINED = Path(__file__).with_name("confined_process.py")


def program(problem: Problem, answer: str) -> str:
    """The whole program: the answer, or the question's beginning of a function and the answer, and then the tests."""
    begun = [*re.finditer(r"^def (\w+)", problem.question, re.MULTILINE)]  # the last one is to be completed
    head = problem.question if begun else ""
    if begun and re.search(rf"^def {begun[-1][1]}\b", answer, re.MULTILINE):
        head = head[: begun[-1].start()]  # written anew: of the question only what stands before it
    return f"{head}{answer}\n\n{problem.expected}\n"


def passes(problem: Problem, answer: str, time_s: float = TIME_S, memory_mb: int = MEMORY_MB) -> bool:
    """Whether a problem's tests accept the function that an answer holds.

    Args:
        problem: Of the kind `code`.
        answer: Its source, see `extraction.extract`.
        time_s: Seconds after which it has failed.
        memory_mb: Memory that it may ask for, in 10^6 bytes.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "answer.py"
        file.write_text(program(problem, answer), encoding="utf-8")
        command = [sys.executable, "-I", "-S", "-B", str(_CONFINED), str(time_s), str(memory_mb), str(file)]
        null = subprocess.DEVNULL
        with subprocess.Popen(
            command, cwd=directory, env={}, start_new_session=True, stdin=null, stdout=null, stderr=null
        ) as child:
            try:
                return child.wait(time_s) == PASSED
            except subprocess.TimeoutExpired:
                return False
            finally:
                _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it has started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
    else:
        child.kill()
