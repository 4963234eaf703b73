"""The example model that the repository holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgereason.problems.arithmetic.generator import held_out
from edgereason.problems.final_result import final_result
from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt
from edgereason.training.example.adapter_training import render
from edgereason.training.example.greedy_accuracy import complete, read_problems

TINY = Path(__file__).parent.parent.parent / "examples" / "tiny"
MEGABYTE = 1_000_000


def test_files_are_small_and_of_the_promised_types() -> None:
    assert (TINY / "base" / "model.safetensors").stat().st_size <= 24 * MEGABYTE
    with safe_open(TINY / "base" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    for stage in ("guidance", "answer"):
        assert (TINY / stage / "adapter_model.safetensors").stat().st_size <= 2 * MEGABYTE
        assert not list((TINY / stage).glob("*.bin"))


def test_prompts_are_the_packages_own_for_single_questions() -> None:
    for stage, prompt in (("guidance", replace(GUIDANCE, history=False)), ("answer", replace(ANSWER, history=False))):
        path = TINY / stage / "prompt.json"
        assert Prompt.from_json(json.loads(path.read_text(encoding="utf-8")), str(path)) == prompt


def test_held_out_problems_are_those_of_the_seed() -> None:
    assert read_problems(TINY / "held_out.jsonl") == held_out(0)


def test_both_stages_answer_held_out_problems() -> None:
    problems = read_problems(TINY / "held_out.jsonl")[::8]
    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    base = AutoModelForCausalLM.from_pretrained(TINY / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, TINY / "guidance", adapter_name="guidance").eval()
    model.load_adapter(TINY / "answer", adapter_name="answer")
    model.set_adapter("guidance")
    guidance = complete(model, tokenizer, [render(tokenizer, GUIDANCE, each.question) for each in problems])
    model.set_adapter("answer")
    prompts = [render(tokenizer, ANSWER, each.question, text) for each, text in zip(problems, guidance, strict=True)]
    answers = complete(model, tokenizer, prompts)
    right = sum(final_result(answer) == each.result for answer, each in zip(answers, problems, strict=True))
    assert right >= 0.8 * len(problems)
