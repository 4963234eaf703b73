"""Text and ids, chat templates, and streams of whole characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_model import save_tokenizer
from transformers import AutoTokenizer

from edgereason.errors import BundleError
from edgereason.text.prompts import ANSWER
from edgereason.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path)
    return path


def set_config(directory: Path, target: Path, **changes: object) -> Path:
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (target / "tokenizer_config.json").write_text(json.dumps({**config, **changes}))
    (target / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    return target


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), max_size=60))
def test_a_stream_shows_whole_characters_and_all_of_them(directory: Path, text: str) -> None:
    tokenizer = Tokenizer(directory)
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text)) == text
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


def test_rendering_and_ids_equal_transformers(directory: Path) -> None:
    messages = ANSWER.messages("Tom has 12 apples. 猫?", "Add them.")
    theirs = AutoTokenizer.from_pretrained(directory)
    ours = Tokenizer(directory)
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ours.render(messages) == text
    assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_stop_ids_come_from_every_place_that_names_them(directory: Path, tmp_path: Path) -> None:
    set_config(directory, tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')
    assert Tokenizer(tmp_path).stop_ids() == {0, 2, 5}


def test_a_template_runs_in_a_sandbox(directory: Path, tmp_path: Path) -> None:
    hostile = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = Tokenizer(set_config(directory, tmp_path, chat_template=hostile))
    with pytest.raises(BundleError, match="chat template"):
        tokenizer.render(ANSWER.messages("?"))


def test_a_template_may_refuse(directory: Path, tmp_path: Path) -> None:
    template = "{{ raise_exception('no system turn, please') }}"
    tokenizer = Tokenizer(set_config(directory, tmp_path, chat_template=template))
    with pytest.raises(BundleError, match="no system turn, please"):
        tokenizer.render(ANSWER.messages("?"))


def test_missing_and_broken_files_are_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BundleError, match=r"tokenizer\.json cannot be read"):
        Tokenizer(tmp_path)
    with pytest.raises(BundleError, match="cannot be compiled"):
        Tokenizer(set_config(directory, tmp_path, chat_template="{% for %}"))
    with pytest.raises(BundleError, match="has no chat template"):
        Tokenizer(set_config(directory, tmp_path, chat_template=None)).render([])
