"""In full precision every engine writes what transformers writes with the unmerged adapters, token for token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from places import HELD_OUT, WORD_PROBLEMS
from transformers import AutoModelForCausalLM

from edgereason import Reasoner, load
from edgereason.export import export

QUESTIONS = 25
BUNDLES = (("native", "merged"), ("native", "shared"), ("gguf", "merged"), ("gguf", "shared"), ("onnx", "merged"))


@pytest.fixture(scope="module")
def oracles() -> dict[str, torch.nn.Module]:
    """Each stage's base and unmerged adapter in fp32."""
    models = {}
    for stage in ("guidance", "answer"):
        base = AutoModelForCausalLM.from_pretrained(WORD_PROBLEMS / "base", dtype=torch.float32)
        models[stage] = PeftModel.from_pretrained(base, WORD_PROBLEMS / stage).eval()
    return models


@pytest.fixture(scope="module", params=BUNDLES, ids=" ".join)
def reasoner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reasoner:
    out = tmp_path_factory.mktemp("full") / "bundle"
    format, layout = request.param
    export(
        WORD_PROBLEMS / "base",
        WORD_PROBLEMS / "guidance",
        WORD_PROBLEMS / "answer",
        out,
        format=format,
        layout=layout,
        bits=16,
        verify=False,
    )
    return load(out)


def test_greedy_text_equals_that_of_the_unmerged_adapters(
    reasoner: Reasoner, oracles: dict[str, torch.nn.Module]
) -> None:
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    assert len(lines) == QUESTIONS
    for line in lines:
        question, guidance = json.loads(line)["question"], None
        for stage in ("guidance", "answer"):
            guidance = greedy_text(reasoner, oracles[stage], stage, question, guidance)


def greedy_text(reasoner: Reasoner, oracle: torch.nn.Module, stage: str, question: str, guidance: str | None) -> str:
    """The engine's text for a stage, after making sure that it is the oracle's.

    One pass of the oracle over prompt and text is enough: when each token is the oracle's most probable one after those
    before it, then decoding greedily with the oracle writes the same tokens.
    """
    model, settings = reasoner.models[stage], reasoner.bundle.stages[stage]
    prompt = model.tokenizer.encode(model.tokenizer.render(settings.prompt.messages(question, guidance)))
    written = list(model.generate(prompt, max_new_tokens=settings.max_new_tokens, stop_ids=settings.stop_ids))
    with torch.no_grad():
        logits = oracle(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :]
    *expected, end = logits.argmax(-1).tolist()
    assert written == expected, (stage, question)
    assert end in settings.stop_ids
    return model.tokenizer.decode(written)


def test_the_example_directory_is_complete() -> None:
    for path in ("base/model.safetensors", "guidance/prompt.json", "answer/adapter_model.safetensors"):
        assert (Path(WORD_PROBLEMS) / path).is_file()
