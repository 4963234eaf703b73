"""Examples as tokens: what inference reads, what is learned, and what ends a turn."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import WORD_PROBLEMS

from edgereason.errors import BundleError, UsageError
from edgereason.text.prompts import ANSWER, Prompt
from edgereason.training.chat_tokens import IGNORED, Chat

END_OF_TEXT, TURN_END = 0, 2
TURN = "{% for message in messages %}{{ message['content'] + 'END' }}{% endfor %}"


def directory(where: Path, template: str | None, tokenizer_end: str | None, model_ends: list[int]) -> Path:
    """The example's tokenizer with another template and other end tokens."""
    shutil.copy(WORD_PROBLEMS / "base" / "tokenizer.json", where)
    config = {"eos_token": tokenizer_end, "chat_template": template}
    (where / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    (where / "generation_config.json").write_text(json.dumps({"eos_token_id": model_ends}))
    return where


@pytest.mark.parametrize(
    ("behind", "tokenizer_end", "model_ends", "expected"),
    [
        ("<|im_end|>\\n", "<|endoftext|>", [END_OF_TEXT, TURN_END], TURN_END),  # as Gemma's and Llama 3's templates
        ("<|endoftext|>", "<|im_end|>", [END_OF_TEXT], END_OF_TEXT),
        ("\\n", "<|im_end|>", [END_OF_TEXT], TURN_END),  # the template ends turns with words alone
        ("\\n", None, [TURN_END], TURN_END),
    ],
)
def test_a_turn_ends_as_the_template_ends_it(
    behind: str, tokenizer_end: str | None, model_ends: list[int], expected: int, tmp_path: Path
) -> None:
    assert Chat(directory(tmp_path, TURN.replace("END", behind), tokenizer_end, model_ends)).end == expected


def test_without_an_end_or_a_template_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="defines no end token"):
        Chat(directory(tmp_path, TURN, None, []))
    with pytest.raises(BundleError, match="has no chat template"):
        Chat(directory(tmp_path, None, "<|im_end|>", []))


@cache
def example(generation_prompt: str) -> Chat:
    """The example's chat, with another text before the assistant's."""
    config = json.loads((WORD_PROBLEMS / "base" / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = config["chat_template"].replace("<|im_start|>assistant\n", generation_prompt)
    assert template != config["chat_template"] or generation_prompt.startswith("<|im_start|>")
    with TemporaryDirectory() as where:
        return Chat(directory(Path(where), template, "<|im_end|>", []))


@settings(deadline=None)
@given(
    st.text(max_size=30),
    st.none() | st.text(max_size=20),
    st.text(min_size=1, max_size=30),
    # Behind the last two, the tokens of prompt and completion would merge.
    st.sampled_from(["<|im_start|>assistant\n", "The ans", "I have 1 appl"]),
)
def test_the_prompt_is_what_inference_reads_and_the_rest_what_it_writes(
    question: str, guidance: str | None, completion: str, generation_prompt: str
) -> None:
    chat, prompt = example(generation_prompt), Prompt("Answer.", ANSWER.user)
    tokens = chat.tokens(prompt, question, guidance, completion)
    tokenizer = chat.tokenizer
    assert tokens.ids[: tokens.prompt] == tokenizer.encode(tokenizer.render(prompt.messages(question, guidance)))
    written = tokens.ids[tokens.prompt :]
    assert written[-1] == chat.end
    assert written[:-1] == tokenizer.encode(completion) or tokenizer.decode(written[:-1]) == completion
    assert tokens.labels == [IGNORED] * tokens.prompt + written


def test_merging_tokens_do_not_change_the_prompt() -> None:
    chat = example("I have 1 appl")
    tokens = chat.tokens(ANSWER, "How many?", None, "es are left")
    assert chat.tokenizer.encode(chat.prompt(ANSWER, "How many?")) == tokens.ids[: tokens.prompt]
    assert chat.tokenizer.decode(tokens.ids).endswith("appl" + "es are left")
