"""Weights that look things up by name before any training."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.training.default_model.corpus import belongings
from edgereason.training.default_model.induction_heads import BACK, start_with_induction
from edgereason.training.default_model.pretraining import llama_config
from edgereason.training.default_model.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    texts = ["".join(belongings(random.Random(seed))) for seed in range(3000)]
    return train_tokenizer(texts, 256, 1024)


@pytest.fixture(scope="module", params=[(384, 6), (384, 3)])
def model(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    size, key_value_heads = request.param
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(tokenizer, size, 128, 3, key_value_heads))
    start_with_induction(model)
    model.set_attn_implementation("eager")
    return model


def attentions(model: LlamaForCausalLM, ids: list[int]) -> list[torch.Tensor]:
    """Each layer's, `[heads, T, T]`."""
    with torch.no_grad():
        return [layer[0] for layer in model(torch.tensor([ids]), output_attentions=True).attentions]


def test_the_first_layer_looks_back_by_position_alone(model: LlamaForCausalLM) -> None:
    ids = random.Random(0).choices(range(len(model.model.embed_tokens.weight)), k=200)
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    first = attentions(model, ids)[0]
    for head, back in enumerate(BACK):
        for each in range(head * group, (head + 1) * group):
            assert first[each].diagonal(-back)[1:].min() > 0.9


def test_the_second_layer_finds_what_stands_beside_a_name(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    found = []
    for seed in range(40):
        ids = tokenizer(f"Given: {belongings(random.Random(seed))[0]}")["input_ids"]
        name = ids[-2]  # before the colon that ends the first question
        after = attentions(model, ids)[1][:, -1]
        found.append(bool((after.argmax(dim=1) == ids.index(name) + 2).any()))
    assert sum(found) > 0.9 * len(found)


def test_a_first_digit_takes_the_space_before_it(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("Tom has 566 566")[-6:] == ["Ġ5", "6", "6"] * 2
    assert tokenizer.tokenize("566-13=553") == [*"566-13=553"]
