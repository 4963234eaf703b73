"""Random checkpoints: transformers opens them, and their sizes are those of the models they are named after."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint import SHAPES, write_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

FAMILIES = ("llama", "qwen2")


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_finds_every_tensor_and_no_other(tmp_path: Path, model_type: str, tied: bool) -> None:
    shape = replace(SHAPES["tiny"], model_type=model_type, tie_word_embeddings=tied)
    write_checkpoint(shape, tmp_path / "model")
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.model_type == model_type
    products = [
        module for name, module in model.named_modules() if ".layers." in name and hasattr(module, "in_features")
    ]
    assert shape.multiplications_per_token() == sum(module.weight.numel() for module in products)


@pytest.mark.parametrize(("name", "parameters"), [("qwen2.5-0.5b", 494_032_768), ("qwen2.5-1.5b", 1_543_714_304)])
def test_a_shape_has_as_many_parameters_as_its_model(name: str, parameters: int) -> None:
    shape = replace(SHAPES[name], model_type="qwen2")
    assert sum(math.prod(size) for _, size in shape.tensors()) == parameters


def test_weights_are_normal_and_finite(tmp_path: Path) -> None:
    write_checkpoint(SHAPES["tiny"], tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    weight = model.model.layers[1].mlp.down_proj.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=3e-4)
    assert torch.equal(model.model.norm.weight, torch.ones(SHAPES["tiny"].hidden_size))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_checkpoint(SHAPES["tiny"], tmp_path / name, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_it_is_written_once_and_again_when_the_shape_is_another(tmp_path: Path) -> None:
    shape = SHAPES["tiny"]
    assert write_checkpoint(shape, tmp_path / "model")
    assert not write_checkpoint(shape, tmp_path / "model")
    assert write_checkpoint(replace(shape, num_hidden_layers=1), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_tokenizer_opens(tmp_path: Path) -> None:
    write_checkpoint(SHAPES["tiny"], tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.decode(tokenizer.encode("the é")) == "the é"
    assert tokenizer.eos_token_id == SHAPES["tiny"].config()["eos_token_id"]
