"""Text to token ids and back, and chat turns to text.

A model's directory holds what Hugging Face writes: `tokenizer.json`, `tokenizer_config.json` and, in newer ones,
`chat_template.jinja`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream

from edgereason.errors import BundleError
from edgereason.files import read_json
from edgereason.text.chat_template import ChatTemplate, Messages
from edgereason.text.control_tokens import Span, encode_marked, token_pattern

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_EXTRA = ("model_specific_special_tokens", "extra_special_tokens", "additional_special_tokens")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TextPieces(Protocol):
    """Turns ids into text as they come."""

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        ...


class TextTokenizer(Protocol):
    """What a stage needs of a tokenizer, wherever it comes from; `Tokenizer` says what each method does."""

    @property
    def vocab_size(self) -> int: ...

    def control(self, text: str) -> list[Span]: ...

    @property
    def template(self) -> ChatTemplate: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def render(self, messages: Messages, date: datetime.date | None = None) -> str: ...

    def stream(self) -> TextPieces: ...

    def stop_ids(self) -> frozenset[int]: ...


class Tokenizer:
    """One model's tokenizer and chat template.

    `tokenizer.json` says how text becomes ids. Truncation and padding that a training has left in it are switched off,
    and tokens that only the other files name are added, as transformers does both.

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
        self._special = special_tokens(directory, self._config)
        self.as_filed = not self._complete()
        self._template = ChatTemplate.find(directory, self._config, self._special)

    def _complete(self) -> bool:
        """Make of the file what transformers makes of it at each call; returns whether it differs from the file."""
        leftovers = self._fast.truncation is not None or self._fast.padding is not None
        self._fast.no_truncation()
        self._fast.no_padding()
        known = {token.content for token in self._fast.get_added_tokens_decoder().values()}
        missing = [token for token in self._named_tokens() if token.content not in known]
        self._fast.add_tokens(missing)
        return leftovers or bool(missing)

    def _named_tokens(self) -> list[AddedToken]:
        """The tokens of tokenizer_config.json and special_tokens_map.json, in the order of their ids."""
        described = self._config.get("added_tokens_decoder") or {}
        try:
            entries = [entry for _, entry in sorted(described.items(), key=lambda item: int(item[0]))]
            tokens = [_added_token(entry) for entry in entries if entry.get("content")]
            extra = [each for name in _EXTRA for each in _values(self._config.get(name))]
        except (AttributeError, TypeError, ValueError) as error:
            raise BundleError(
                f"{self.directory / 'tokenizer_config.json'} does not name its tokens as transformers writes them.",
                "Save the tokenizer again with save_pretrained().",
            ) from error
        texts = [*self._special.values(), *map(_token_text, extra)]
        named = {token.content for token in tokens}
        return tokens + [AddedToken(text, special=True) for text in dict.fromkeys(texts) if text and text not in named]

    @property
    def vocab_size(self) -> int:
        return self._fast.get_vocab_size(with_added_tokens=True)

    @cached_property
    def _control(self) -> tuple[re.Pattern[str], frozenset[int]]:
        """The tokens that mean something to the model: the special ones, and those that its chat template writes."""
        written = "" if self._template is None else self._template.written
        added = {
            id_: token.content
            for id_, token in self._fast.get_added_tokens_decoder().items()
            if token.special or (token.content in written and not token.content.isspace())
        }
        return token_pattern(added.values()), frozenset(added)

    def control(self, text: str) -> list[Span]:
        """Where a text has control tokens, also those that it has only when it is normalized."""
        pattern, ids = self._control
        found = {match.span() for match in pattern.finditer(text)}
        if self._fast.normalizer is not None:
            encoded = self._fast.encode(text, add_special_tokens=False)
            found |= {span for id_, span in zip(encoded.ids, encoded.offsets, strict=True) if id_ in ids}
        return sorted(found)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; none are added.

        Special tokens written in it become their ids, unless they are marked as text (`control_tokens.mark`).
        """
        return encode_marked(text, self._encode, self._encode_plain)

    def _encode(self, text: str) -> list[int]:
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def _encode_plain(self, text: str) -> list[int]:
        """Token ids of a text without any added token, even where merges of the vocabulary spell one."""
        fast = self._fast
        text = fast.normalizer.normalize_str(text) if fast.normalizer else text
        words = [word for word, _ in fast.pre_tokenizer.pre_tokenize_str(text)] if fast.pre_tokenizer else [text]
        ids: list[int] = []
        for word in words:
            tokens = fast.model.tokenize(word)
            if any(token.id in self._control[1] for token in tokens):
                tokens = [token for character in word for token in fast.model.tokenize(character)]
            ids += [token.id for token in tokens]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._fast.decode(list(ids), skip_special_tokens=True)

    @property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            BundleError: there is none.
        """
        if self._template is None:
            raise BundleError(
                f"{self.directory} has no chat template.",
                'Put "chat_template" into its tokenizer_config.json, as the adapter was trained with.',
            )
        return self._template

    def render(self, messages: Messages, date: datetime.date | None = None) -> str:
        """The prompt text for chat turns, up to where the assistant's text begins; see `ChatTemplate.render`.

        Raises:
            BundleError: there is no chat template, or it refuses these turns.
        """
        return self.template.render(messages, date=date)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it; None where there is none."""
        id_: int | None = self._fast.token_to_id(token)
        return id_

    def token(self, id_: int) -> str:
        """A token as the vocabulary spells it; empty where there is none of this id."""
        return self._fast.id_to_token(id_) or ""

    @property
    def end_id(self) -> int | None:
        """The tokenizer's own end token; None where it names none."""
        return self.token_id(self._special.get("eos_token", ""))

    @cached_property
    def turn_end_id(self) -> int | None:
        """The token with which the chat template ends an assistant's turn; None where it ends it with none."""
        if self._template is None:
            return None
        behind = self._template.behind_answer.lstrip()
        match = token_pattern(token.content for token in self._fast.get_added_tokens_decoder().values()).match(behind)
        return self.token_id(match.group()) if match and match.group().strip() else None

    def stream(self) -> TextStream:
        """A decoder that turns ids into text as they come."""
        return TextStream(self._fast)

    def stop_ids(self) -> frozenset[int]:
        """Every id that ends a turn: the tokenizer's end token, the one with which the chat template ends an
        assistant's turn, and those of config.json and generation_config.json.

        Raises:
            BundleError: a file names something that is no token id.
        """
        ids = {self.end_id, self.turn_end_id} - {None}
        for name in ("config.json", "generation_config.json"):
            ids |= end_tokens(self.directory / name)
        return frozenset(id_ for id_ in ids if id_ is not None)

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` as it is used here."""
        self._fast.save(str(path))


class TextStream:
    """Whole characters from a stream of ids: a character whose bytes span several tokens appears with its last one."""

    def __init__(self, fast: FastTokenizer) -> None:
        self._fast = fast
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        return self._stream.step(self._fast, token) or ""


def special_tokens(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a model's files name, such as `bos_token`, as transformers reads them.

    Args:
        directory: The model's.
        config: Its tokenizer_config.json. Where that has no `added_tokens_decoder`, which transformers writes since
            4.34, special_tokens_map.json goes before it.
    """
    named = dict(config)
    if "added_tokens_decoder" not in config:
        named |= _read_optional(directory / "special_tokens_map.json")
    return {name: text for name in _SPECIAL if (text := _token_text(named.get(name)))}


def listed_ids(value: Any) -> list[Any]:
    """What a configuration names under `eos_token_id`, one or several or none, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]


def end_tokens(file: Path) -> frozenset[int]:
    """The end tokens that a config.json or generation_config.json names; none where the file is absent.

    Raises:
        BundleError: it names something that is no token id.
    """
    config = _read_optional(file)
    value, size = config.get("eos_token_id"), config.get("vocab_size")
    ids = listed_ids(value)
    last = size if isinstance(size, int) else 1 << 31
    for id_ in ids:
        if type(id_) is not int or not 0 <= id_ < last:
            raise BundleError(
                f"{file}: eos_token_id is {value!r}, which is no token id of the model.",
                "Correct it there: the end token's id, a list of ids, or null.",
            )
    return frozenset(ids)


def _read_optional(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where the file is absent."""
    return read_json(path) if path.is_file() else {}


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    """A token of `added_tokens_decoder`."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(entry["content"], **{key: entry[key] for key in flags if entry.get(key) is not None})


def _values(several: Any) -> list[Any]:
    """The values of a list or an object; none where there is neither."""
    return list(several.values()) if isinstance(several, dict) else list(several or ())


def _token_text(token: object) -> str:
    """A special token as text; tokenizer_config.json writes it plainly or as an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
