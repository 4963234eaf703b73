"""onnxruntime-genai's model builder as a command: int4, blocks of 32, accuracy level 4."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("onnxruntime_genai") is None:
    raise ImportError("onnxruntime-genai")


def onnx(checkpoint: Path, out: Path) -> None:
    """Convert a checkpoint."""
    cache = out / "cache"
    command = [
        "-m",
        "onnxruntime_genai.models.builder",
        "-m",
        checkpoint,
        "-o",
        out,
        "-p",
        "int4",
        "-e",
        "cpu",
        "-c",
        cache,
    ]
    options = ["--extra_options", "block_size=32", "accuracy_level=4"]
    subprocess.run([sys.executable, *command, *options], check=True, capture_output=True)
    shutil.rmtree(cache, ignore_errors=True)
