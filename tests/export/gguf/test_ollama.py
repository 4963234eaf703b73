"""Modelfiles: what Ollama puts around a question is what the stage's own prompt puts around it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_model import save_merged
from random_model import CHAT_TEMPLATE, save_tokenizer, save_trio

from edgereason.bundle import Stage
from edgereason.errors import UsageError
from edgereason.export import export
from edgereason.export.gguf import write_gguf
from edgereason.export.gguf.ollama import go_template, write_modelfile
from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt
from edgereason.text.tokenizer import Tokenizer

LLAMA_2 = (
    "{{ bos_token }}[INST] {% if messages[0].role == 'system' %}<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n"
    "{% endif %}{{ messages[-1].content }} [/INST]"
)


def with_template(directory: Path, template: str, **tokens: str) -> Tokenizer:
    save_tokenizer(directory)
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template, **tokens}))
    return Tokenizer(directory)


def rendered(template: str, system: str, prompt: str) -> str:
    """What Go makes of the parts of its language that these templates use."""
    values = {"{{ .System }}": system, "{{ .Prompt }}": prompt, '{{ "{{" }}': "{{"}
    return re.sub(r"\{\{ .*? \}\}", lambda match: values[match.group()], template)


@settings(max_examples=50, deadline=None)
@given(question=st.text(max_size=30), around=st.text(max_size=10), system=st.text(max_size=20))
def test_the_template_renders_the_stages_prompt(
    tmp_path_factory: pytest.TempPathFactory, question: str, around: str, system: str
) -> None:
    prompt = Prompt(system.replace('"', ""), around.replace('"', "").replace("{", "") + "{question} {{")
    for template in (CHAT_TEMPLATE, LLAMA_2):
        tokenizer = with_template(tmp_path_factory.mktemp("model"), template, bos_token="<|endoftext|>")
        found = go_template(Stage(prompt, frozenset()), tokenizer)
        assert found is not None
        assert rendered(found, prompt.system, question) == tokenizer.render(prompt.messages(question))


def test_a_prompt_with_a_guidance_is_one_turn(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, CHAT_TEMPLATE)
    found = go_template(Stage(ANSWER, frozenset()), tokenizer)
    turn = ANSWER.messages("How many?", "Steps: add.")[-1]["content"]
    assert rendered(str(found), ANSWER.system, turn) == tokenizer.render(ANSWER.messages("How many?", "Steps: add."))


def test_the_first_token_is_not_written_twice(tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, LLAMA_2, bos_token="<|endoftext|>")
    found = go_template(Stage(GUIDANCE, frozenset()), tokenizer, "<|endoftext|>")
    assert str(found).startswith("[INST]")


@pytest.mark.parametrize(
    "template", ["{{ messages[-1].content | upper }}", "{{ messages }}", '{{ messages[-1].content }}"""']
)
def test_a_template_that_does_more_is_left_to_ollama(tmp_path: Path, template: str) -> None:
    assert go_template(Stage(Prompt("", "{question}"), frozenset()), with_template(tmp_path, template)) is None


def test_a_modelfile_says_what_the_stage_says(tmp_path: Path) -> None:
    save_merged(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    end = json.loads((tmp_path / "config.json").read_text())["eos_token_id"]
    write_modelfile(Stage(ANSWER, frozenset([end]), stop_strings=("####",)), tmp_path)
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf"
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'PARAMETER stop "####"' in lines
    assert "PARAMETER temperature 0" in lines
    assert "PARAMETER num_ctx 256" in lines
    assert f'SYSTEM """{ANSWER.system}"""' in lines


def test_an_export_writes_them_for_gguf_alone(tmp_path: Path) -> None:
    trio = list(save_trio(tmp_path).values())
    bundle = export(*trio, tmp_path / "out", format="gguf", gguf_type="Q8_0", ollama=True, verify=False)
    assert {"guidance/Modelfile", "answer/Modelfile"} <= set(bundle.files)
    with pytest.raises(UsageError, match="ollama needs --format gguf"):
        export(*trio, tmp_path / "out", ollama=True)
