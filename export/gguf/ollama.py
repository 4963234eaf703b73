"""A Modelfile beside a stage's GGUF file, from which Ollama makes a model: `ollama create NAME -f Modelfile`.

The format: https://github.com/ollama/ollama/blob/main/docs/modelfile.md. Chat templates are programs in jinja, Ollama's
are in Go's template language; what a chat template puts around the stage's turns is found by rendering it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from edgereason.bundle import BASE, Stage
from edgereason.checkpoints.llama_library import llama_library, without_weights
from edgereason.errors import BundleError
from edgereason.text.tokenizer import Tokenizer

MAX_CONTEXT = 4096
"""Maximum `num_ctx`, for which Ollama reserves memory; it can be raised to the model's context in the file."""

_MARKS = ("<<first system>>", "<<first user>>"), ("another system", "another\nuser")


def write_modelfile(stage: Stage, directory: Path) -> None:
    """Write `Modelfile` into a stage's directory, which holds the tokenizer and a GGUF model or adapter.

    Args:
        stage: Its prompt, stops and sampling.
        directory: Of the stage; in the shared layout the base lies beside it.
    """
    adapted = (directory / "adapter.gguf").is_file()
    model = directory.parent / BASE / "model.gguf" if adapted else directory / "model.gguf"
    tokenizer = Tokenizer(directory)
    lines = [f"FROM ../{BASE}/model.gguf" if adapted else "FROM ./model.gguf"]
    lines += ["ADAPTER ./adapter.gguf"] if adapted else []
    context, first = _facts(model)
    template = go_template(stage, tokenizer, first)
    if template is None:
        lines.append("# The chat template has no form in Go's language; Ollama uses what it finds in the GGUF file.")
    else:
        lines.append(f'TEMPLATE """{template}"""')
    if "{guidance}" in stage.prompt.user:
        lines += ["# The prompt of this stage is:", *(f"#   {line}" for line in stage.prompt.user.splitlines())]
    if stage.prompt.system and '"""' not in stage.prompt.system:
        lines.append(f'SYSTEM """{stage.prompt.system}"""')
    stops = [*stage.stop_strings, *(tokenizer.token(id_) for id_ in sorted(stage.stop_ids))]
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops if stop and '"' not in stop]
    lines.append(f"PARAMETER temperature {stage.sampling.temperature:g}")
    lines.append(f"PARAMETER num_predict {stage.max_new_tokens}")
    lines.append(f"PARAMETER num_ctx {min(context, MAX_CONTEXT)}")
    (directory / "Modelfile").write_text("\n".join(lines) + "\n", encoding="utf-8")


def go_template(stage: Stage, tokenizer: Tokenizer, first: str = "") -> str | None:
    """The stage's chat in Go's template language, with `.System` and `.Prompt`.

    Where the user turn of the stage's prompt is text around the question, so is it here; where it has guidance too,
    `.Prompt` is the whole turn.

    Args:
        stage: Its prompt.
        tokenizer: Its chat template.
        first: The token that llama.cpp itself puts before every text, which the template must not repeat.

    Returns:
        None where the chat template does more than putting text around its turns.
    """
    around = [_around(tokenizer, system if stage.prompt.system else "", user) for system, user in _MARKS]
    if around[0] is None or around[0] != around[1] or any('"""' in piece for piece in around[0]):
        return None
    before, between, after = around[0]
    opening, _, closing = stage.prompt.user.partition("{question}")
    if "{guidance}" in stage.prompt.user or '"""' in stage.prompt.user:
        opening = closing = ""
    pieces = [_go(before.removeprefix(first))]
    if stage.prompt.system:
        pieces += ["{{ .System }}", _go(between)]
    pieces += [_go(opening), "{{ .Prompt }}", _go(closing), _go(after)]
    return "".join(pieces)


def _around(tokenizer: Tokenizer, system: str, user: str) -> tuple[str, str, str] | None:
    """What the chat template puts before the system turn, between it and the user's, and after that."""
    turns = [{"role": "system", "content": system}] if system else []
    try:
        text = tokenizer.render([*turns, {"role": "user", "content": user}])
    except BundleError:
        return None
    if text.count(user) != 1 or (system and text.count(system) != 1):
        return None
    before, _, after = text.partition(user)
    if not system:
        return before, "", after
    start, found, between = before.partition(system)
    return (start, between, after) if found else None


def _go(text: str) -> str:
    """Text as a Go template has it."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


def _facts(model: Path) -> tuple[int, str]:
    """The model's context, and the text of the token that llama.cpp puts before every text: empty where it puts none.

    Raises:
        BundleError: llama.cpp cannot read the file.
    """
    llama = llama_library()
    with without_weights(model) as loaded:
        vocabulary = llama.llama_model_get_vocab(loaded)
        first = b""
        if llama.llama_vocab_get_add_bos(vocabulary):
            first = llama.llama_vocab_get_text(vocabulary, llama.llama_vocab_bos(vocabulary))
        architecture = _key(llama, loaded, "general.architecture")
        return int(_key(llama, loaded, f"{architecture}.context_length")), first.decode("utf-8")


def _key(llama: Any, model: Any, name: str) -> str:
    value = ctypes.create_string_buffer(64)
    llama.llama_model_meta_val_str(model, name.encode(), value, len(value))
    return value.value.decode("utf-8")
