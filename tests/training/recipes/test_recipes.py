"""Recipes on the example's base: they learn, go on after an interruption, and end where export begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from places import HELD_OUT, WORD_PROBLEMS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgereason import load
from edgereason.errors import EdgeReasonWarning, UsageError
from edgereason.export import export
from edgereason.training.chat_tokens import IGNORED, Chat
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.answer import PROMPT as ANSWER
from edgereason.training.recipes.answer import computes, train_answer
from edgereason.training.recipes.guidance import train_guidance
from edgereason.training.trainer import Schedule
from edgereason.training.training_base import TrainingBase, open_training_base
from edgereason.training.training_progress import LossProgress

SCHEDULE = Schedule(steps=10, batch_size=3, learning_rate=4e-3, save_every=4)
LORA = LoraSettings(rank=4, dropout=0.1)  # dropout, so that resuming has to bring the random state back, too


@pytest.fixture(scope="module")
def base() -> TrainingBase:
    return open_training_base(WORD_PROBLEMS / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems, some of multiple choice, with words that the base has not seen in a chat."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    lines = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()[:32]]
    for line in lines[::2]:
        line["choices"] = ["nothing", line["result"], "everything"]
        line["answer"] = "#### B"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(base: TrainingBase, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both stages' adapters, trained without interruption."""
    directory = tmp_path_factory.mktemp("trained")
    train_guidance(data, base, directory / "guidance", SCHEDULE, LORA)
    train_answer(data, base, directory / "answer", SCHEDULE, LORA, alone=0.25)
    return directory


def losses(adapter: Path) -> list[float]:
    history = json.loads((adapter / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("stage", ["guidance", "answer"])
def test_the_loss_falls_and_the_curve_is_drawn(trained: Path, stage: str) -> None:
    found = losses(trained / stage)
    assert len(found) == SCHEDULE.steps
    assert np.mean(found[-3:]) < np.mean(found[:3]) - 0.1
    assert (trained / stage / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_is_what_peft_loads_and_gives_the_loss_that_was_reached(
    trained: Path, base: TrainingBase, data: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    line = json.loads(data.read_text(encoding="utf-8").splitlines()[1])
    tokens = Chat(base.path).tokens(ANSWER, line["question"], line["guidance"], line["answer"])
    ids, labels = torch.tensor([tokens.ids]), torch.tensor([tokens.labels])
    with torch.inference_mode():
        before = model(ids, labels=labels).loss
        after = PeftModel.from_pretrained(model, str(trained / "answer")).eval()(ids, labels=labels).loss
    assert after < before - 0.05  # the base has read such problems


@pytest.mark.parametrize("stage", ["guidance", "answer"])
def test_an_interrupted_training_goes_on_to_the_same_adapter(
    trained: Path, base: TrainingBase, data: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / stage
    recipe: Callable[..., None] = train_guidance if stage == "guidance" else train_answer
    options: dict[str, Any] = {} if stage == "guidance" else {"alone": 0.25}
    with monkeypatch.context() as patched:
        patched.setattr(LossProgress, "on_step_end", interrupt_after(6), raising=False)
        with pytest.raises(KeyboardInterrupt):
            recipe(data, base, out, SCHEDULE, LORA, **options)
    assert not out.exists()
    with pytest.raises(UsageError, match=r"\.partial is an interrupted training"):
        recipe(data, base, out, SCHEDULE, LORA, **options)
    with pytest.raises(UsageError, match="was started with another lora"):
        recipe(data, base, out, SCHEDULE, LoraSettings(rank=5), resume=True, **options)
    recipe(data, base, out, SCHEDULE, LORA, resume=True, **options)
    assert losses(out) == losses(trained / stage)
    resumed, whole = (load_file(each / "adapter_model.safetensors") for each in (out, trained / stage))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [path.name for path in tmp_path.iterdir()] == [stage]


def interrupt_after(steps: int) -> Callable[..., None]:
    def on_step_end(_: LossProgress, __: object, state: Any, ___: object, **____: object) -> None:
        if state.global_step == steps:
            raise KeyboardInterrupt

    return on_step_end


def test_export_takes_the_adapters_and_ask_runs_them(trained: Path, base: TrainingBase, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    bundle = export(base.path, trained / "guidance", trained / "answer", out, verify=False)
    assert bundle.stages["answer"].prompt == replace(ANSWER, calculator=True)
    with load(out) as reasoner:
        result = reasoner.ask("Tom has 12 apples and eats 5. How many apples does he have left?", max_new_tokens=60)
    assert result.guidance.startswith("Asked:")
    assert result.answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("She has 16 - 3 = <<16-3=13>>13 eggs.\n#### 13", True),
        ("Half: <<1/2=0.5>>50% of it", True),
        ("16 - 3 = 13", False),
        ("<<16-3=14>>", False),
        ("<<x=13>> and <<", False),
    ],
)
def test_computations_are_those_that_the_calculator_writes(answer: str, expected: bool) -> None:
    assert computes(answer) == expected


def test_an_adapter_trained_on_computations_says_so(base: TrainingBase, tmp_path: Path) -> None:
    path, out = tmp_path / "data.jsonl", tmp_path / "adapter"
    path.write_text(json.dumps({"question": "How many?", "answer": "2+2 = <<2+2=4>>4\n#### 4"}) + "\n")
    train_answer(path, base, out, Schedule(steps=1), LORA)
    assert json.loads((out / "prompt.json").read_text(encoding="utf-8"))["calculator"] is True


@pytest.mark.parametrize("way", ["bfloat16", "gradient checkpointing"])
def test_other_ways_of_computing_train_the_same(
    way: str, trained: Path, base: TrainingBase, data: Path, tmp_path: Path
) -> None:
    """bfloat16 is how a CUDA device computes."""
    other = open_training_base(base.path, dtype="bfloat16") if way == "bfloat16" else base
    schedule = replace(SCHEDULE, steps=3, gradient_checkpointing=way == "gradient checkpointing")
    train_guidance(data, other, tmp_path / "adapter", schedule, LORA)
    # Up to here the rates of the two schedules are the same.
    assert losses(tmp_path / "adapter")[:2] == pytest.approx(losses(trained / "guidance")[:2], rel=0.02)
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(factor.dtype == torch.float16 and factor.any() for factor in factors.values())


def test_a_training_that_diverges_ends_with_a_sentence(base: TrainingBase, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="The loss became NaN or infinite"):
        train_guidance(data, base, tmp_path / "adapter", Schedule(steps=4, batch_size=1, learning_rate=1e30), LORA)
    assert not (tmp_path / "adapter").exists()


def test_what_is_there_is_replaced_only_when_told(trained: Path, base: TrainingBase, data: Path) -> None:
    with pytest.raises(UsageError, match="guidance exists already"):
        train_guidance(data, base, trained / "guidance", SCHEDULE, LORA)


def test_examples_that_are_too_long_are_left_out_and_named(base: TrainingBase, tmp_path: Path) -> None:
    path, out = tmp_path / "long.jsonl", tmp_path / "adapter"
    lines = [{"question": "How many?", "guidance": "Count."}, {"question": "How many? " * 400, "guidance": "Count."}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.warns(EdgeReasonWarning, match=r"1 of 2 samples have more than 1024 tokens, .*long\.jsonl:2 first"):
        train_guidance(path, base, out, Schedule(steps=1, batch_size=1), LORA)
    with pytest.raises(UsageError, match="2 of 2 samples have more than 3 tokens"):
        train_guidance(path, base, out, Schedule(steps=1), LORA, max_length=3, force=True)


def test_tokens_are_those_of_transformers_and_labels_those_of_the_completion(base: TrainingBase) -> None:
    """The witness: transformers' own rendering of the whole conversation."""
    reference = AutoTokenizer.from_pretrained(base.path)
    question, guidance, answer = "How many apples?", "Count them.", "3 + 4 = 7\n#### 7"
    turns = [*ANSWER.messages(question, guidance), {"role": "assistant", "content": answer}]
    whole = reference.apply_chat_template(turns, return_dict=False)
    tokens = Chat(base.path).tokens(ANSWER, question, guidance, answer)
    assert tokens.ids == whole[: len(tokens.ids)]
    assert reference.decode(whole[len(tokens.ids) :]) == "\n"  # what the template has behind the end of the turn
    assert tokens.ids[-1] == reference.eos_token_id
    learned = [id_ for id_ in tokens.labels if id_ != IGNORED]
    assert reference.decode(learned) == f"{answer}<|im_end|>"
    assert len(tokens.labels) == len(tokens.ids)
