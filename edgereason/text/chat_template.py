"""Chat turns to text: a model's own template, in a sandbox, since it is a program from somebody else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgereason.errors import BundleError


class ChatTemplate:
    """A jinja template that lays out a conversation for one model.

    Args:
        source: The template.
        where: What it belongs to, for messages.

    Raises:
        BundleError: it is no template.
    """

    def __init__(self, source: str, where: Path) -> None:
        # trim_blocks, lstrip_blocks, loop controls and raise_exception are what transformers gives to chat templates.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise
        self._where = where
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise BundleError(f"The chat template of {where} cannot be compiled: {error}") from error

    @classmethod
    def find(cls, directory: Path, config: Mapping[str, Any]) -> ChatTemplate | None:
        """The template in a model's directory, or in its tokenizer_config.json; None where there is none."""
        file = directory / "chat_template.jinja"
        if file.is_file():
            return cls(file.read_text(encoding="utf-8"), directory)
        template = config.get("chat_template")
        if isinstance(template, list):  # several named templates: the one for plain conversation
            template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
        return cls(template, directory) if isinstance(template, str) else None

    def render(self, messages: Iterable[dict[str, str]], tokens: Mapping[str, str]) -> str:
        """The prompt text for chat turns, up to where the assistant's text begins.

        Args:
            messages: Turns with `role` and `content`.
            tokens: The special tokens that templates ask for: `bos_token`, `eos_token`, `unk_token`.

        Raises:
            BundleError: the template refuses these turns.
        """
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True, **tokens)
        except jinja2.TemplateError as error:
            raise BundleError(f"The chat template of {self._where} failed: {error}") from error


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
