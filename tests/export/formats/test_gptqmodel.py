"""Our checkpoints in GPTQModel, and its beside ours: `make conformance` names its environment."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from gptq_checkpoint import dequantized, float_logits
from merged_model import Array, random_ids, relative_error
from places import WORD_PROBLEMS
from transformers import AutoConfig, AutoModelForCausalLM

from edgereason import load_model
from edgereason.export import export
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.materialize import materialize
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.problems.word_problems import problems
from edgereason.text.prompts import ANSWER
from edgereason.text.tokenizer import Tokenizer

pytestmark = pytest.mark.conformance

PROGRAM = Path(__file__).with_name("gptqmodel_program.py")


def gptqmodel(*arguments: str | Path) -> None:
    """Run GPTQModel's program in its environment."""
    python = os.environ.get("EDGEREASON_GPTQMODEL")
    if not python:
        pytest.skip("EDGEREASON_GPTQMODEL does not name the python of an environment with GPTQModel")
    with tempfile.TemporaryDirectory() as elsewhere:  # it writes its log into the directory in which it runs
        command = [python, PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=elsewhere)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "options",
    [{"group_size": 32}, {"symmetric": False, "group_size": 64}, {"static_groups": False, "group_size": 32}],
    ids=["symmetric", "asymmetric", "members apart"],
)
@pytest.mark.parametrize("reader", ["logits", "transformers"])
def test_gptqmodel_and_transformers_compute_our_logits_from_our_checkpoints(
    options: dict[str, object], reader: str, trio: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Tom has 12 apples and buys 30 more. " * 40)
    export(
        *(trio[name] for name in ("base", "guidance", "answer")),
        tmp_path / "out",
        format="gptq",
        calibration_text=text,
        verify=False,
        **options,
    )
    ids = random_ids(40, 300)
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    gptqmodel(reader, tmp_path / "out/answer", tmp_path / "ids.json", tmp_path / "logits.npy")
    theirs = np.load(tmp_path / "logits.npy")
    # GPTQModel computes in bfloat16, transformers in what it is told.
    assert relative_error(theirs, float_logits(tmp_path / "out/answer", ids)) < (2e-2 if reader == "logits" else 2e-3)
    with load_model(tmp_path / "out/answer") as model:
        assert relative_error(model.logits(ids), theirs) < 4e-2  # ours with activations of 8 bits


def test_our_weights_of_the_example_are_as_close_as_those_of_gptqmodel(tmp_path: Path) -> None:
    merged = merge(open_base(WORD_PROBLEMS / "base"), open_adapter(WORD_PROBLEMS / "answer", ANSWER))
    materialize(merged, tmp_path / "model")
    sequences = CalibrationText({"answer": ANSWER}).sequences(Tokenizer(merged.tokenizer))
    (tmp_path / "text.json").write_text(json.dumps({"sequences": sequences, "group_size": 128}))
    gptqmodel("quantize", tmp_path / "model", tmp_path / "text.json", tmp_path / "theirs")
    paths = (WORD_PROBLEMS / "base", WORD_PROBLEMS / "guidance", WORD_PROBLEMS / "answer")
    export(*paths, tmp_path / "ours", format="gptq", verify=False)
    export(*paths, tmp_path / "nearest", format="gptq", method="rtn", group_size=128, verify=False)
    exact = merged_logits(tmp_path / "model", None)
    found = {
        name: divergence(merged_logits(tmp_path / "model", directory), exact)
        for name, directory in {
            "ours": tmp_path / "ours/answer",
            "theirs": tmp_path / "theirs",
            "nearest": tmp_path / "nearest/answer",
        }.items()
    }
    print(found)
    assert found["ours"] <= found["theirs"]
    assert found["ours"] < 0.7 * found["nearest"]


def held_out_ids() -> list[list[int]]:
    """Problems with answers that are not in the calibration text."""
    tokenizer = Tokenizer(WORD_PROBLEMS / "base")
    return [
        tokenizer.encode(tokenizer.render(ANSWER.messages(p.question, p.guidance)) + p.answer)
        for p in islice(problems("measured"), 64)
    ]


def merged_logits(source: Path, checkpoint: Path | None) -> list[Array]:
    """What transformers computes in fp32 with a model's weights, or those that a checkpoint has in their place."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    if checkpoint:
        weights = dequantized(checkpoint)
        linear = {name: weight for name, weight in weights.items() if ".layers." in name and weight.ndim == 2}
        assert len(linear) == 7 * AutoConfig.from_pretrained(source).num_hidden_layers
        model.load_state_dict(linear, strict=False)
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0].numpy() for ids in held_out_ids()]


def divergence(found: list[Array], expected: list[Array]) -> float:
    """The mean Kullback-Leibler divergence of the next token's distribution, in nats."""
    p, q = (torch.from_numpy(np.concatenate(each)).log_softmax(-1) for each in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())
