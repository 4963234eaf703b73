"""The example model that the repository holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import torch
from peft import PeftModel
from places import HELD_OUT, WORD_PROBLEMS
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from edgereason.files import read_json_lines
from edgereason.problems.final_result import final_result
from edgereason.problems.word_problems import held_out
from edgereason.problems.worked_problem import WorkedProblem
from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt
from edgereason.training.default_model.adapter_training import render_chat

MEGABYTE = 1_000_000
ADAPTERS = ("guidance", "answer", "single")


def test_files_are_small_and_of_the_promised_types() -> None:
    assert (WORD_PROBLEMS / "base" / "model.safetensors").stat().st_size <= 24 * MEGABYTE
    assert types("base/model.safetensors") == {torch.bfloat16}
    for name in ADAPTERS:
        assert (WORD_PROBLEMS / name / "adapter_model.safetensors").stat().st_size <= 1.5 * MEGABYTE
        assert types(f"{name}/adapter_model.safetensors") == {torch.float16}
        assert not list((WORD_PROBLEMS / name).glob("*.bin"))


def types(name: str) -> set[torch.dtype]:
    with safe_open(WORD_PROBLEMS / name, "pt") as file:
        return {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118


def test_prompts_are_the_packages_own_for_single_questions() -> None:
    calculating = replace(ANSWER, history=False, calculator=True)
    for name, prompt in (("guidance", GUIDANCE), ("answer", calculating), ("single", calculating)):
        path = WORD_PROBLEMS / name / "prompt.json"
        found = Prompt.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
        assert replace(found, min_confidence=None) == replace(prompt, history=False)
        assert (found.min_confidence is not None) == (name == "guidance")


def test_held_out_problems_are_those_of_the_seed() -> None:
    assert read_worked(HELD_OUT.name) == held_out(0, 500)


def test_both_stages_answer_held_out_problems() -> None:
    """Without the engine, and without the calculator that it has."""
    problems = read_worked(HELD_OUT.name)[::20]
    tokenizer = AutoTokenizer.from_pretrained(WORD_PROBLEMS / "base")
    base = AutoModelForCausalLM.from_pretrained(WORD_PROBLEMS / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, WORD_PROBLEMS / "guidance", adapter_name="guidance").eval()
    model.load_adapter(WORD_PROBLEMS / "answer", adapter_name="answer")
    model.set_adapter("guidance")
    guidance = complete(model, tokenizer, [render_chat(tokenizer, GUIDANCE, each.question) for each in problems])
    model.set_adapter("answer")
    shown = zip(problems, guidance, strict=True)
    answers = complete(model, tokenizer, [render_chat(tokenizer, ANSWER, each.question, text) for each, text in shown])
    right = sum(final_result(answer) == each.result for answer, each in zip(answers, problems, strict=True))
    assert right >= 0.8 * len(problems)


def read_worked(name: str) -> list[WorkedProblem]:
    return [WorkedProblem(**value) for _, value in read_json_lines(WORD_PROBLEMS / name)]


@torch.inference_mode()
def complete(model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """What the model writes after each prompt, decoded greedily, without special tokens."""
    batch = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
    ids = model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=200, do_sample=False
    )
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
