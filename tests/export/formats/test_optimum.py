"""Our ONNX bundles in `optimum.onnxruntime.ORTModelForCausalLM`: `make conformance` names its environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merged_model import random_ids, relative_error

from edgereason.engines.onnx import OnnxEngine
from edgereason.export import export

pytestmark = pytest.mark.conformance

PROGRAM = Path(__file__).with_name("optimum_program.py")


@pytest.mark.parametrize(
    "options",
    [{"bits": 4}, {"bits": 4, "symmetric": False, "group_size": 64}, {"bits": 8}, {"bits": 16}, {"bits": 32}],
    ids=["int4", "int4 asymmetric", "int8", "float16", "float32"],
)
def test_optimum_computes_the_logits_of_our_engine(
    options: dict[str, Any], trio: dict[str, Path], tmp_path: Path
) -> None:
    python = os.environ.get("EDGEREASON_OPTIMUM")
    if not python:
        pytest.skip("EDGEREASON_OPTIMUM does not name the python of an environment with optimum-onnx")
    inputs = [trio[name] for name in ("base", "guidance", "answer")]
    export(*inputs, tmp_path / "out", format="onnx", verify=False, **options)
    stage, ids = tmp_path / "out/answer", random_ids(40, 300)
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    command = [python, PROGRAM, stage, tmp_path / "ids.json", tmp_path / "logits.npy"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ours = OnnxEngine(stage, 1).session(len(ids)).advance(ids, every=True)
    assert relative_error(np.load(tmp_path / "logits.npy"), ours) < 1e-4
