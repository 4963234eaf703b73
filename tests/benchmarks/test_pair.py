"""The random pair: its texts come back as the tokens that wrote them, and nothing ends them early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint import SHAPES
from pair import pairs, text, vocabulary, write_pair
from peft import PeftModel
from transformers import AutoModelForCausalLM

from edgereason.text.tokenizer import Tokenizer

SHAPE = SHAPES["tiny"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pair")
    write_pair(SHAPE, directory)
    return directory


def test_text_is_read_as_the_tokens_that_wrote_it(pair: Path) -> None:
    tokenizer = Tokenizer(pair / "base")
    speaks = len(vocabulary()) - len(pairs())
    ids = np.random.default_rng(0).integers(speaks, len(vocabulary()), 300).tolist()
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert len(tokenizer.encode(text(80, np.random.default_rng(1)))) == 80


@pytest.mark.parametrize("stage", ["guidance", "answer"])
def test_every_token_that_a_stage_says_is_a_pair(pair: Path, stage: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(pair / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, pair / stage)
    ids = torch.tensor([Tokenizer(pair / "base").encode(text(20, np.random.default_rng(2)))])
    with torch.no_grad():
        said = model(input_ids=ids).logits.argmax(-1).flatten().tolist()
    speaks = len(vocabulary()) - len(pairs())
    assert all(speaks <= token < len(vocabulary()) for token in said)
    assert len(set(said)) > 5


def test_what_is_there_is_kept(pair: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pair.rglob("*") if path.is_file()}
    write_pair(SHAPE, pair)
    assert {path: path.stat().st_mtime_ns for path in pair.rglob("*") if path.is_file()} == before
