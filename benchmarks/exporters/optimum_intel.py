"""optimum-intel's exporter (nncf) as a command: int4, symmetric, groups of 64. Needs an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("openvino") is None:
    raise ImportError("optimum-intel")

_OPTIONS = ["--weight-format", "int4", "--sym", "--group-size", "64", "--ratio", "1.0"]


def openvino(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint."""
    program = str(Path(sys.executable).with_name("optimum-cli"))
    task = ["--task", "text-generation-with-past", "--disable-convert-tokenizer"]
    command = [program, "export", "openvino", "--model", str(checkpoint), *task, *_OPTIONS, str(out)]
    subprocess.run(command, check=True, capture_output=True)
