"""Every family's logits against those of transformers in float32: whole, in steps, and beyond a window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, save_family
from merged_model import random_ids, reference_logits, relative_error
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from edgereason import load_model

TOLERANCE = 2e-3
"""Of the logits' range; every oddity of a family changes them by much more."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PreTrainedModel]:
    directory = tmp_path_factory.mktemp("family")
    return request.param, directory, save_family(request.param, directory)


Pair = tuple[str, Path, PreTrainedModel]


@pytest.mark.parametrize("length", [1, 20, 100])
def test_one_prefill_has_the_logits_of_transformers(pair: Pair, length: int) -> None:
    _, directory, reference = pair
    ids = random_ids(length, 320, seed=length)
    with load_model(directory) as model:
        assert relative_error(model.logits(ids), reference_logits(reference, ids)) < TOLERANCE


def test_prefill_and_decode_have_the_logits_of_one_pass(pair: Pair) -> None:
    _, directory, reference = pair
    ids = random_ids(100, 320, seed=1)
    with load_model(directory) as model:
        session = model.engine.session(len(ids))
        rows = [session.advance(ids[:60]), session.advance(ids[60:63])]
        rows += [session.advance([token]) for token in ids[63:]]
        session.close()
    expected = reference_logits(reference, ids)
    assert relative_error(np.concatenate(rows), expected[[59, *range(62, 100)]]) < TOLERANCE


def test_every_oddity_is_noticed(pair: Pair) -> None:
    name, directory, reference = pair
    ids = random_ids(100, 320, seed=2)
    expected = reference_logits(reference, ids)
    file = directory / "config.json"
    stored = file.read_text()
    for oddity, changes in FAMILIES[name].without.items():
        file.write_text(json.dumps({**json.loads(stored), **changes}))
        try:
            with load_model(directory) as model:
                error = relative_error(model.logits(ids), expected)
        finally:
            file.write_text(stored)
        assert error > 5 * TOLERANCE, oddity


TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("stored", ["a head of its own", "the head twice", "the head alone"])
def test_what_the_file_has_wins_over_what_config_json_ties(name: str, stored: str, tmp_path: Path) -> None:
    save_family(name, tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors[HEAD] = tensors[TABLE].clone()
    if stored == "a head of its own":
        tensors[HEAD] += 0.5 * torch.randn(tensors[HEAD].shape, generator=torch.manual_seed(1))
    elif stored == "the head alone":
        del tensors[TABLE]
    save_file(tensors, file, {"format": "pt"})
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    ids = random_ids(30, 320, seed=3)
    with load_model(tmp_path) as model:
        assert relative_error(model.logits(ids), reference_logits(reference, ids)) < TOLERANCE
        tables = model.engine._model  # type: ignore[attr-defined]
        assert (tables.lm_head is tables.embed_tokens) is (stored != "a head of its own")
