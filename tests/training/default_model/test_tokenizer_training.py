"""The default model's tokenizer, as transformers and as tokenizers read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from edgereason.text.prompts import ANSWER
from edgereason.training.default_model.from_scratch import VOCABULARY, make_tokenizer
from edgereason.training.default_model.tokenizer_training import END_OF_TEXT, TURN_END, TURN_START, save_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(make_tokenizer(seed=0, exclude=(), texts=10_000), path)
    return path


@pytest.fixture(scope="module")
def fast(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def auto(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory)


@given(text=st.text())
def test_any_text_comes_back_and_both_readers_agree(fast: Tokenizer, auto: PreTrainedTokenizerBase, text: str) -> None:
    ids = fast.encode(text, add_special_tokens=False).ids
    assert auto(text)["input_ids"] == ids
    assert fast.decode(ids, skip_special_tokens=False) == text


def test_every_digit_is_a_token_of_its_own(fast: Tokenizer) -> None:
    for token, index in fast.get_vocab().items():
        text = token.removeprefix("Ġ")  # the space before a number's first digit
        assert len(text) == 1 or not any(digit in text for digit in "0123456789"), (token, index)


def test_size_and_special_tokens(fast: Tokenizer, auto: PreTrainedTokenizerBase) -> None:
    assert fast.get_vocab_size() == VOCABULARY
    assert [fast.token_to_id(token) for token in (END_OF_TEXT, TURN_START, TURN_END)] == [0, 1, 2]
    assert (auto.eos_token, auto.pad_token, auto.bos_token, auto.unk_token) == (TURN_END, END_OF_TEXT, None, None)


def test_the_chat_template_writes_chatml(auto: PreTrainedTokenizerBase, directory: Path) -> None:
    text = auto.apply_chat_template(ANSWER.messages("Why?", "So."), tokenize=False, add_generation_prompt=True)
    assert text == (
        f"<|im_start|>system\n{ANSWER.system}<|im_end|>\n"
        "<|im_start|>user\nWhy?\n\nGuidance:\nSo.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "chat_template" in json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
