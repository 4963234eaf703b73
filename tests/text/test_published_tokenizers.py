"""Every family's tokenizer as it is published: ids of `tokenizer.json`, whatever `tokenizer_class` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import PUBLISHED, Published
from transformers import PreTrainedTokenizerFast

from edgereason.errors import BundleError
from edgereason.text.prompts import ANSWER, prompt_text
from edgereason.text.tokenizer import Tokenizer

TEXT = "She sells 16 eggs at 3.50 each; été 猫 ✓\n\n\n  two  spaces\tand <|im_end|> </s> <end_of_turn>\n"


@pytest.fixture(scope="module", params=PUBLISHED)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Published, Any, Tokenizer]:
    path = tmp_path_factory.mktemp("published")
    published = PUBLISHED[request.param]
    published.save(path)
    return published, PreTrainedTokenizerFast.from_pretrained(path), Tokenizer(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), max_size=40))
def test_ids_are_those_of_the_file(opened: tuple[Published, Any, Tokenizer], text: str) -> None:
    _, theirs, ours = opened
    for each in (text, TEXT, text + TEXT):
        assert ours.encode(each) == theirs(each, add_special_tokens=False)["input_ids"]


def test_prompts_and_what_ends_them(opened: tuple[Published, Any, Tokenizer]) -> None:
    published, theirs, ours = opened
    text = prompt_text(ours, ANSWER, "How many eggs?", "Add them.")
    turns = ANSWER.messages("How many eggs?", "Add them.")
    if not ours.template.takes_system:
        turns = [{"role": "user", "content": turns[0]["content"] + "\n\n" + turns[1]["content"]}]
    assert text == theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ours.token(ours.turn_end_id or 0) == published.turn_end
    assert ours.turn_end_id in ours.stop_ids()
    assert ours.end_id == theirs.eos_token_id


def test_what_a_training_leaves_in_the_file_has_no_part(tmp_path: Path) -> None:
    published = PUBLISHED["SmolLM2"]
    plain = published.save(tmp_path / "plain")
    for setting in ("truncation", "padding", "both"):
        tokenizer = published.save(tmp_path / setting)
        if setting != "padding":
            tokenizer.enable_truncation(8)
        if setting != "truncation":
            tokenizer.enable_padding(length=64, pad_id=0, pad_token="<|endoftext|>")
        tokenizer.save(str(tmp_path / setting / "tokenizer.json"))
        opened = Tokenizer(tmp_path / setting)
        assert opened.encode(TEXT) == plain.encode(TEXT, add_special_tokens=False).ids
        assert not opened.as_filed
        opened.save(tmp_path / "saved.json")
        saved = json.loads((tmp_path / "saved.json").read_text())
        assert saved["truncation"] is None
        assert saved["padding"] is None
    assert Tokenizer(tmp_path / "plain").as_filed


def test_tokens_that_other_files_name_are_added_as_transformers_adds_them(tmp_path: Path) -> None:
    published = PUBLISHED["SmolLM2"]
    size = published.save(tmp_path).get_vocab_size()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    for more in (
        {"additional_special_tokens": ["<think>", "</think>"]},
        {"extra_special_tokens": ["<think>", "</think>"]},
        {"mask_token": "<think>", "cls_token": "</think>"},
        {
            "added_tokens_decoder": {
                str(size + 1): {"content": "</think>", **flags},
                str(size): {"content": "<think>", **flags},
            }
        },
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **more}))
        theirs, ours = PreTrainedTokenizerFast.from_pretrained(tmp_path), Tokenizer(tmp_path)
        text = "a<think>b</think>c"
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert {size, size + 1} <= set(ours.encode(text))
        assert not ours.as_filed


def test_special_tokens_come_from_every_file_that_names_them(tmp_path: Path) -> None:
    PUBLISHED["SmolLM2"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    template = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ sep_token }}|{{ sep_token is defined }}"
    (tmp_path / "chat_template.jinja").write_text(template)
    named = {"bos_token": "<|endoftext|>", "sep_token": {"content": "<|im_end|>", "lstrip": False}}
    for decoder in ({}, {"added_tokens_decoder": {}}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, **decoder}))
        for mapped in (None, named):
            (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
            if mapped:
                (tmp_path / "special_tokens_map.json").write_text(json.dumps(mapped))
            theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
            turns = [{"role": "user", "content": "?"}]
            assert Tokenizer(tmp_path).render(turns) == theirs.apply_chat_template(turns, tokenize=False)


@pytest.mark.parametrize("value", ["1e999", '"x"', "[[1]]", "2.5", "true", "-1", "[2, null]", "{}", "320", "[1, 999]"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_end_token_that_is_none_is_named(tmp_path: Path, name: str, value: str) -> None:
    PUBLISHED["SmolLM2"].save(tmp_path)
    (tmp_path / name).write_text(f'{{"eos_token_id": {value}, "vocab_size": 320}}')
    with pytest.raises(BundleError, match=rf"{name}: eos_token_id is"):
        Tokenizer(tmp_path).stop_ids()


def test_an_end_token_may_be_missing(tmp_path: Path) -> None:
    PUBLISHED["SmolLM2"].save(tmp_path)
    (tmp_path / "config.json").write_text('{"eos_token_id": null, "vocab_size": 320}')
    assert Tokenizer(tmp_path).stop_ids() == {Tokenizer(tmp_path).end_id}


@pytest.mark.parametrize(
    "fields",
    [
        {"added_tokens_decoder": {"3": "<x>"}},
        {"added_tokens_decoder": {"three": {"content": "<x>"}}},
        {"added_tokens_decoder": [1]},
        {"additional_special_tokens": 7},
    ],
    ids=str,
)
def test_tokens_that_are_named_oddly_are_a_sentence(tmp_path: Path, fields: dict[str, Any]) -> None:
    PUBLISHED["SmolLM2"].save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | fields))
    with pytest.raises(BundleError, match=r"tokenizer_config\.json does not name its tokens"):
        Tokenizer(tmp_path)


def test_tokens_without_flags_and_in_several_lists_are_added(tmp_path: Path) -> None:
    size = PUBLISHED["SmolLM2"].save(tmp_path).get_vocab_size()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {
        "added_tokens_decoder": {"900": {"content": "<a>", "special": None}, "901": {"special": True}},
        "extra_special_tokens": {"image_token": "<b>"},
        "additional_special_tokens": ["<c>", {"content": "<d>"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer(tmp_path).encode("<a><b><c><d>") == [size, size + 1, size + 2, size + 3]
