"""Training in miniature: it learns, it resumes exactly, and what it writes loads."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.errors import UsageError
from edgereason.problems.word_problems import sample_problem
from edgereason.training.default_model.adapter_training import IGNORED, STAGES, pad, sample_chat, train_adapter
from edgereason.training.default_model.corpus import sample_text
from edgereason.training.default_model.from_scratch import make_tokenizer, save_base
from edgereason.training.default_model.pretraining import llama_config, pretrain
from edgereason.training.default_model.training_loop import int4_weights, round_to_int4, train
from edgereason.training.lora_settings import save_adapter


def text(rng: random.Random) -> Sequence[str]:
    return sample_text(rng, ())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return make_tokenizer(seed=0, exclude=(), texts=10_000)


def small_config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return llama_config(tokenizer, 128, 128, layers=2, key_value_heads=1)


@pytest.fixture(scope="module")
def made(
    tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[float]]]:
    """A model trained for seconds, as the command writes it, and the losses on the way."""
    out, work = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("work")
    model, base_losses = pretrain(
        small_config(tokenizer), tokenizer, text, 0, work / "base.pt", 30, batch=4, length=128
    )
    save_base(model, tokenizer, out / "base")
    losses = {"base": base_losses}
    for stage in STAGES:
        tuned, losses[stage.name] = train_adapter(
            model, tokenizer, stage, sample_problem, 0, work / f"{stage.name}.pt", 20, 8, rank=4
        )
        save_adapter(tuned, stage.prompt, "edgereason/test", out / stage.name)
        model = tuned.unload()
    return out, losses


def test_losses_fall(made: tuple[Path, dict[str, list[float]]]) -> None:
    for name, losses in made[1].items():
        assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1, name


def test_base_and_adapters_load_and_differ(made: tuple[Path, dict[str, list[float]]]) -> None:
    out = made[0]
    base = AutoModelForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(out / "base")("Tom has 3 apples.")["input_ids"]])
    logits = [base(ids).logits]
    for stage in STAGES:
        model = PeftModel.from_pretrained(base, out / stage.name)
        logits.append(model(ids).logits)
        base = model.unload()
    assert all(not torch.allclose(a, b) for a, b in combinations(logits, 2))


def test_adapters_are_written_in_16_bits(made: tuple[Path, dict[str, list[float]]]) -> None:
    for stage in STAGES:
        with safe_open(made[0] / stage.name / "adapter_model.safetensors", "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        assert len(tensors) == 2 * 7 * 2  # A and B of seven matrices in two layers
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        assert all(tensor.any() for tensor in tensors)


def test_files_name_no_path_and_hold_the_prompt(made: tuple[Path, dict[str, list[float]]]) -> None:
    for stage in STAGES:
        config = json.loads((made[0] / stage.name / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["base_model_name_or_path"] == "edgereason/test"
        assert config["target_modules"] == sorted(config["target_modules"])
        prompt = json.loads((made[0] / stage.name / "prompt.json").read_text(encoding="utf-8"))
        assert prompt == stage.prompt.to_json()
    assert "_name_or_path" not in json.loads((made[0] / "base" / "config.json").read_text(encoding="utf-8"))


def test_the_stored_base_is_exactly_what_the_adapters_were_trained_on(
    made: tuple[Path, dict[str, list[float]]], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model, _ = pretrain(small_config(tokenizer), tokenizer, text, 0, tmp_path / "base.pt", 30, batch=4, length=128)
    stored = LlamaForCausalLM.from_pretrained(made[0] / "base", dtype=torch.float32)
    # Trained once more from the same seed: determinism as well.
    for name, weight in stored.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


def regression(steps: int, checkpoint: Path, stop_at: int | None = None) -> tuple[nn.Linear, list[float]]:
    """A linear regression through the training loop; `stop_at` interrupts it."""
    torch.manual_seed(0)
    model = nn.Linear(32, 4)

    def loss_at(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 32, generator=torch.Generator().manual_seed(step))
        return ((model(x) - x[:, :4]) ** 2).mean()

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    return model, train("regression", model, [optimizer], loss_at, steps, checkpoint)


def test_interrupted_training_resumes_exactly(tmp_path: Path) -> None:
    whole, losses = regression(120, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        regression(120, tmp_path / "part.pt", stop_at=77)
    resumed, resumed_losses = regression(120, tmp_path / "part.pt")
    assert resumed_losses == losses
    assert torch.equal(resumed.weight, whole.weight)


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    regression(10, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"a\.pt is the checkpoint of another training"):
        regression(11, tmp_path / "a.pt")


def test_targets_are_the_completion_and_its_end_and_nothing_else(tokenizer: PreTrainedTokenizerBase) -> None:
    for stage in STAGES:
        samples = [sample_chat(tokenizer, stage, sample_problem(rng := random.Random(seed)), rng) for seed in range(8)]
        inputs, targets = pad(samples, tokenizer.pad_token_id)
        assert inputs.shape == targets.shape
        for (ids, prompt), row, target in zip(samples, inputs, targets, strict=True):
            # A prediction stands where its preceding token is read.
            assert row[: len(ids) - 1].tolist() == ids[:-1]
            chosen = (target != IGNORED).nonzero().flatten().tolist()
            assert chosen == list(range(prompt - 1, len(ids) - 1))
            assert target[chosen].tolist() == ids[prompt:]
            assert tokenizer.decode(ids[:prompt]).endswith("<|im_start|>assistant\n")
            assert ids[-1] == tokenizer.eos_token_id


def test_int4_rounding_is_the_nearest_of_fifteen_levels() -> None:
    weight = torch.randn(6, 96, generator=torch.Generator().manual_seed(0))
    rounded = round_to_int4(weight).numpy()
    for row, original in zip(rounded, weight.numpy(), strict=True):
        for first in range(0, 96, 32):
            group = original[first : first + 32]
            levels = np.arange(-7, 8) * np.abs(group).max() / 7
            nearest = np.abs(group[:, None] - levels).min(axis=1)
            np.testing.assert_allclose(np.abs(group - row[first : first + 32]), nearest, atol=1e-6)


def test_within_int4_weights_an_adapter_computes_as_merged_and_rounded(
    made: tuple[Path, dict[str, list[float]]],
) -> None:
    base = AutoModelForCausalLM.from_pretrained(made[0] / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, made[0] / "answer")
    ids = torch.arange(40)[None]
    before = model(ids).logits
    with int4_weights(model):
        within = model(ids).logits
    after = model(ids).logits
    merged = model.merge_and_unload()
    for name, layer in merged.named_modules():
        if isinstance(layer, nn.Linear) and name != "lm_head":
            layer.weight.data = round_to_int4(layer.weight.data)
    torch.testing.assert_close(within, merged(ids).logits, rtol=1e-3, atol=1e-3)
    assert torch.equal(before, after)
    assert not torch.allclose(before, within, atol=1e-3)
