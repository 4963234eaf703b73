"""Text to token ids and back, and chat turns to text.

A model's directory holds what Hugging Face writes: `tokenizer.json`, `tokenizer_config.json` and, in newer ones,
`chat_template.jinja`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from edgereason.errors import BundleError
from edgereason.files import read_json
from edgereason.text.chat_template import ChatTemplate

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class TextPieces(Protocol):
    """Turns ids into text as they come."""

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        ...


class TextTokenizer(Protocol):
    """What a stage needs of a tokenizer, wherever it comes from; `Tokenizer` says what each method does."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def render(self, messages: Iterable[dict[str, str]]) -> str: ...

    def stream(self) -> TextPieces: ...

    def stop_ids(self) -> frozenset[int]: ...


class Tokenizer:
    """One model's tokenizer and chat template.

    Args:
        directory: Where `tokenizer.json` and `tokenizer_config.json` lie.

    Raises:
        BundleError: a file is missing or cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise BundleError(f"{directory} has no tokenizer.json.", "Export the model again, or copy the file there.")
        try:
            self._fast = FastTokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception
            raise BundleError(f"{path} cannot be read: {error}", "Export the model again.") from error
        self.directory = directory
        self._config = _read_optional(directory / "tokenizer_config.json")
        self._template = ChatTemplate.find(directory, self._config)

    @property
    def vocab_size(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids, none are added."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    def render(self, messages: Iterable[dict[str, str]]) -> str:
        """The prompt text for chat turns, up to where the assistant's text begins.

        Raises:
            BundleError: there is no chat template, or it refuses these turns.
        """
        if self._template is None:
            raise BundleError(
                f"{self.directory} has no chat template.",
                'Put "chat_template" into its tokenizer_config.json, as the adapter was trained with.',
            )
        tokens = {name: _token_text(self._config.get(name)) for name in ("bos_token", "eos_token", "unk_token")}
        return self._template.render(messages, tokens)

    def token(self, id_: int) -> str:
        """A token as the vocabulary spells it; empty where there is none of this id."""
        return self._fast.id_to_token(id_) or ""

    @property
    def end_id(self) -> int | None:
        """The tokenizer's own end token; None where it names none."""
        end: int | None = self._fast.token_to_id(_token_text(self._config.get("eos_token")))
        return end

    def stream(self) -> TextStream:
        """A decoder that turns ids into text as they come."""
        return TextStream(self._fast)

    def stop_ids(self) -> frozenset[int]:
        """Every id that ends a turn: the tokenizer's end token and those of config.json and generation_config.json."""
        ids = set() if self.end_id is None else {self.end_id}
        for name in ("config.json", "generation_config.json"):
            value = _read_optional(self.directory / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
        return frozenset(ids)


class TextStream:
    """Whole characters from a stream of ids: a character whose bytes span several tokens appears with its last one."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        return self._stream.step(self._fast, token) or ""


def _read_optional(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where the file is absent."""
    return read_json(path) if path.is_file() else {}


def _token_text(token: object) -> str:
    """A special token as text; tokenizer_config.json writes it plainly or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
