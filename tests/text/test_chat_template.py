"""Templates in the forms of published families render as transformers renders them; system text is never lost."""

from __future__ import annotations

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from random_model import save_tokenizer
from templates import TEMPLATES
from transformers import PreTrainedTokenizerFast

from edgereason.errors import BundleError
from edgereason.text.chat_template import ChatTemplate
from edgereason.text.prompts import ANSWER, Prompt, dated, prompt_text
from edgereason.text.tokenizer import Tokenizer

TURNS = [
    {"role": "system", "content": "Answer step by step. "},
    {"role": "user", "content": ' How many eggs? 猫 {{ 7*7 }} <b> & "so"\n'},
    {"role": "assistant", "content": "</think>Nine.\n#### 9"},
    {"role": "user", "content": "And then?"},
]
CONVERSATIONS = {
    "question": TURNS[1:2],
    "system and question": TURNS[:2],
    "conversation": TURNS[1:],
    "system and conversation": TURNS,
}


@pytest.fixture(scope="module", params=TEMPLATES.values(), ids=TEMPLATES.keys())
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    path = tmp_path_factory.mktemp("template")
    save_tokenizer(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config |= {
        "chat_template": request.param,
        "bos_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return PreTrainedTokenizerFast.from_pretrained(path), Tokenizer(path)


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_text_is_that_of_transformers(opened: tuple[Any, Tokenizer], messages: list[dict[str, str]]) -> None:
    theirs, ours = opened
    for generate in (True, False):
        try:
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
        except Exception:
            expected = None
        if expected is not None and (messages[0]["role"] != "system" or ours.template.takes_system):
            assert ours.template.render(messages, generate) == expected
        elif messages[0]["role"] != "system":
            with pytest.raises(BundleError, match="chat template"):
                ours.template.render(messages, generate)


def test_system_text_is_never_lost(opened: tuple[Any, Tokenizer]) -> None:
    theirs, ours = opened
    text = ours.render(TURNS[:2])
    if ours.template.takes_system:
        assert text == theirs.apply_chat_template(TURNS[:2], tokenize=False, add_generation_prompt=True)
    else:
        joined = [{"role": "user", "content": TURNS[0]["content"] + "\n\n" + TURNS[1]["content"]}]
        assert text == theirs.apply_chat_template(joined, tokenize=False, add_generation_prompt=True)
    assert TURNS[0]["content"].strip()[:6].upper() in text.upper()


def test_which_families_take_no_system_turn(tmp_path: Path) -> None:
    refusing = {
        name
        for name, source in TEMPLATES.items()
        if not ChatTemplate(source, tmp_path, {"bos_token": "<s>"}).takes_system
    }
    assert refusing == {
        "system refused (Gemma 2)",
        "instructions without a system turn (Mistral 0.1)",
        "system dropped in silence (Phi-3 small)",
        "the last turn alone",
    }


def test_a_template_that_refuses_every_turn_says_why(tmp_path: Path) -> None:
    template = ChatTemplate("{{ raise_exception('no turns, please') }}", tmp_path, {})
    assert template.takes_system
    with pytest.raises(BundleError, match="no turns, please"):
        template.render(TURNS)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ namespace(__x=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x.y }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__self__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ dict.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ 1 / 0 }}",
        "{{ none + 1 }}",
        "{{ missing.field.of.nothing }}",
        "{{ messages | map('nothing') | list }}",
        "{{ strftime_now(1) }}",
    ],
)
def test_what_fails_in_a_template_is_one_sentence(source: str, tmp_path: Path) -> None:
    template = ChatTemplate(source, tmp_path, {})
    with contextlib.suppress(BundleError):
        assert not template.render(TURNS).strip()  # what jinja takes for undefined is empty


def test_the_bundles_day_is_the_templates_day(tmp_path: Path) -> None:
    day = datetime.date(2025, 3, 9)
    for name, source in TEMPLATES.items():
        template = ChatTemplate(source, tmp_path, {"bos_token": "<s>"})
        assert template.asks_date == ("date" in name or "time" in name), name
        prompt = dated(Prompt(system="", user="{question}"), template, day)
        assert prompt.date == (day if template.asks_date else None)
        if template.asks_date:
            assert "2025" in template.render(prompt.messages("?"), date=prompt.date)
            assert Prompt.from_json(prompt.to_json(), "here") == prompt
            assert dated(prompt, template, datetime.date(2026, 1, 1)) == prompt
    with pytest.raises(BundleError, match="has the date 'soon'"):
        Prompt.from_json({"system": "", "user": "", "date": "soon"}, "prompt.json")


def test_named_templates_and_files(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert Tokenizer(tmp_path).render(TURNS[1:2]) == "yes"
    (tmp_path / "chat_template.jinja").write_text("the file")
    assert Tokenizer(tmp_path).render(TURNS[1:2]) == "the file"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer(tmp_path)


def test_the_answer_stage_sees_its_guidance_in_every_template(opened: tuple[Any, Tokenizer]) -> None:
    text = prompt_text(opened[1], ANSWER, "How many?", "Add them.")
    assert "ADD THEM." in text.upper().replace("BDD", "ADD")


@pytest.mark.parametrize(
    "source", ["{% continue %}", "{% for a in b %}" * 25 + "{% endfor %}" * 25, "{% if a %}" * 200, "{{"]
)
def test_a_template_that_does_not_compile_is_a_sentence(source: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be compiled"):
        ChatTemplate(source, tmp_path, {})
