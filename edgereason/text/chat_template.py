"""Chat turns to text: a model's own template, in a sandbox, since it is a program from somebody else.

Templates are written for transformers' `apply_chat_template`
(https://huggingface.co/docs/transformers/chat_templating_writing): its functions, tags and variables are here.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edgereason.errors import BundleError

Messages = Sequence[Mapping[str, str]]
"""Turns with `role` and `content`."""

_PROBES = ("edgereasonsystem", "edgereasonuser", "edgereasonassistant")  # words that no template has of its own


class ChatTemplate:
    """A jinja template that lays out a conversation for one model.

    Args:
        source: The template.
        where: What it belongs to, for messages.
        tokens: The special tokens that it may ask for, by their names in tokenizer_config.json: `bos_token`.

    Raises:
        BundleError: it is no template.
    """

    def __init__(self, source: str, where: Path, tokens: Mapping[str, str]) -> None:
        self._where = where
        self._tokens = dict(tokens)
        environment = _environment()
        try:
            self._parsed = environment.parse(source)
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError) as error:  # jinja compiles to Python
            raise BundleError(f"The chat template of {where} cannot be compiled: {error}.") from error

    @classmethod
    def find(cls, directory: Path, config: Mapping[str, Any], tokens: Mapping[str, str]) -> ChatTemplate | None:
        """The template in a model's directory, or in its tokenizer_config.json; None where there is none."""
        source = template_source(directory, config)
        return None if source is None else cls(source, directory, tokens)

    def render(self, messages: Messages, generate: bool = True, date: datetime.date | None = None) -> str:
        """The text of chat turns.

        A system turn that the template refuses or drops is put before the first user turn.

        Args:
            messages: The turns.
            generate: Whether the text goes up to where the assistant's begins.
            date: What the template takes for today; None for today.

        Raises:
            BundleError: the template refuses these turns.
        """
        if messages and messages[0]["role"] == "system" and not self.takes_system:
            messages = folded(messages)
        return self._render(messages, generate, date)

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template shows the text of a system turn."""
        turns = [{"role": "system", "content": _PROBES[0]}, {"role": "user", "content": _PROBES[1]}]
        try:
            return _PROBES[0] in self._render(turns)
        except BundleError:
            pass
        try:
            self._render(turns[1:])
        except BundleError:
            return True  # it refuses these turns as well, for a reason that its own error tells best
        return False

    @cached_property
    def asks_date(self) -> bool:
        """Whether the template may write today's date."""
        return "strftime_now" in meta.find_undeclared_variables(self._parsed)

    @cached_property
    def written(self) -> str:
        """The text that the template itself writes; pieces are separated by NUL.

        Its constants, and a conversation: some templates make tokens of pieces, `'<|' + message.role + '|>'`.
        """
        data = [node.data for node in self._parsed.find_all(nodes.TemplateData)]
        constants = [node.value for node in self._parsed.find_all(nodes.Const) if isinstance(node.value, str)]
        roles = zip(("system", "user", "assistant", "user"), (*_PROBES, _PROBES[1]), strict=True)
        conversation = ""
        with suppress(BundleError):
            conversation = self.render([{"role": role, "content": probe} for role, probe in roles])
        return "\0".join([*data, *constants, conversation])

    @cached_property
    def behind_answer(self) -> str:
        """What the template writes behind an assistant's turn, the conversation's last; empty where it has none."""
        turns = [{"role": "user", "content": _PROBES[1]}, {"role": "assistant", "content": _PROBES[2]}]
        try:
            _, found, behind = self._render(turns, generate=False).rpartition(_PROBES[2])
        except BundleError:
            return ""
        return behind if found else ""

    def _render(self, messages: Messages, generate: bool = True, date: datetime.date | None = None) -> str:
        moment = datetime.datetime.now() if date is None else datetime.datetime.combine(date, datetime.time())
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=generate,
                tools=None,
                documents=None,
                strftime_now=moment.strftime,
                **self._tokens,
            )
        except Exception as error:  # whatever an expression of a template can raise
            raise BundleError(
                f"The chat template of {self._where} failed: {str(error) or type(error).__name__}."
            ) from error


def template_source(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The chat template of a model's directory with this tokenizer_config.json; None where there is none.

    Raises:
        BundleError: the file cannot be read.
    """
    file = directory / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{file} cannot be read: {error}.", "Copy it again from the model's source.") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates: the one for plain conversation
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def folded(messages: Messages) -> list[dict[str, str]]:
    """Turns with the text of a first system turn before that of the first user turn."""
    system, *rest = (dict(message) for message in messages)
    for message in rest:
        if message["role"] == "user":
            message["content"] = f"{system['content']}\n\n{message['content']}"
            return rest
    return rest


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update({"raise_exception": _raise, "namespace": _Namespace, "dict": _Dictionary()})
    return environment


class _Generation(Extension):
    """`{% generation %}`, which marks what an assistant writes for training, and changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012 - as jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """`namespace()`, without the names that Python keeps to itself."""

    def __init__(*args: Any, **fields: Any) -> None:  # a field may be called "self"
        self, *given = args
        values = dict(*given, **fields)
        for name in values:
            _check_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


class _Dictionary:
    """`dict()` and `dict.fromkeys()`."""

    def __call__(self, *values: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*values, **fields)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"{name} is no name for a field of a namespace")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is; jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
