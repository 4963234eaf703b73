"""Formulas that are the same by algebra, as Math-Verify decides it (https://github.com/huggingface/Math-Verify).

It runs in a process of its own (`algebra_process.py`), which can be ended: a model may write 9^9^9^9. Nothing else of
edgereason imports Math-Verify or SymPy.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from edgereason.evaluation.algebra_process import SAME

TIME_S = 20
"""Maximum for one pair; starting takes one second."""

MEMORY_MB = 2000

_PROCESS = Path(__file__).with_name("algebra_process.py")
# What people type where LaTeX has a command.
_TYPED = (
    (re.compile(r"√\s*\(([^()]*)\)|(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√\s*(\w+)|(?<![A-Za-z\\])sqrt\s*(\w+)"), r"\\sqrt{\1\2}"),
    (re.compile(r"π|(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"[*\u00d7·]"), r"\\cdot "),
    (re.compile("÷"), r"\\div "),
)


def available() -> bool:
    """Whether Math-Verify is installed."""
    return find_spec("math_verify") is not None


def same_formula(one: str, other: str) -> bool:
    """Whether two expressions, in LaTeX or as they are typed, have the same value whatever their variables are.

    What takes longer than `TIME_S` is not the same, and so is everything where Math-Verify is not installed.
    """
    first, second = sorted((_latex(one), _latex(other)))  # whichever is the expected one
    return first == second or (available() and _same(first, second))


def _latex(expression: str) -> str:
    for pattern, replacement in _TYPED:
        expression = pattern.sub(replacement, expression)
    return expression


@lru_cache(maxsize=1024)
def _same(one: str, other: str) -> bool:
    # -P: the folder of the process's file is not searched for modules.
    command = [sys.executable, "-P", str(_PROCESS), str(TIME_S), str(MEMORY_MB)]
    try:
        done = subprocess.run(command, input=json.dumps([one, other]), text=True, capture_output=True, timeout=TIME_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == SAME
