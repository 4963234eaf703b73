"""The tokenizer inside a GGUF file, through llama.cpp: for models that come without `tokenizer.json`."""

from __future__ import annotations

import codecs
import ctypes
import datetime
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from edgereason.errors import BundleError
from edgereason.text.chat_template import ChatTemplate, Messages
from edgereason.text.control_tokens import Span, encode_marked, token_pattern

_PIECE = 256  # bytes; longer tokens are asked for twice


class GgufTokenizer:
    """One model's tokenizer and chat template; the same methods as `edgereason.text.tokenizer.Tokenizer`.

    Args:
        llama: The library.
        model: Its model.
        file: Where the model was read from, for messages.
    """

    def __init__(self, llama: Any, model: Any, file: Path) -> None:
        self._llama = llama
        self._vocabulary = llama.llama_model_get_vocab(model)
        self._file = file
        source = llama.llama_model_chat_template(model, None)
        special = {"bos_token": llama.llama_vocab_bos, "eos_token": llama.llama_vocab_eos}
        tokens = {name: text for name, get in special.items() if (text := self._special(get))}
        self._template = ChatTemplate(source.decode(), file, tokens) if source else None

    @property
    def vocab_size(self) -> int:
        return int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    @cached_property
    def _control(self) -> dict[str, int]:
        """The tokens that mean something to the model: control tokens, and those that its chat template writes."""
        written = "" if self._template is None else self._template.written
        kinds = {token: self._llama.llama_vocab_get_attr(self._vocabulary, token) for token in range(self.vocab_size)}
        control, defined = self._llama.LLAMA_TOKEN_ATTR_CONTROL, self._llama.LLAMA_TOKEN_ATTR_USER_DEFINED
        texts = {self._text(token): token for token, kind in kinds.items() if kind & (control | defined)}
        return {
            text: token
            for text, token in texts.items()
            if kinds[token] & control or (text in written and not text.isspace())
        }

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return token_pattern(self._control)

    def control(self, text: str) -> list[Span]:
        """Where a text has control tokens."""
        return [match.span() for match in self._pattern.finditer(text)]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; none are added. Special tokens become their ids, unless they are marked as text."""
        return encode_marked(text, self._encode, self._encode_plain)

    def _encode_plain(self, text: str) -> list[int]:
        """Token ids of a text without control tokens; llama.cpp takes user-defined tokens for such even then."""
        ids = self._encode(text, special=False)
        if not set(ids) & set(self._control.values()):
            return ids
        return [id_ for character in text for id_ in self._encode(character, special=False)]

    def _encode(self, text: str, special: bool = True) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), False, special)
        if count < 0:
            raise BundleError(f"{self._file} cannot tokenize this text.", "Give another model.")
        return list(ids[:count])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return b"".join(map(self._piece, ids)).decode(errors="replace")

    @property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            BundleError: there is none.
        """
        if self._template is None:
            raise BundleError(f"{self._file} has no chat template.", "Give a model that is trained to chat.")
        return self._template

    def render(self, messages: Messages, date: datetime.date | None = None) -> str:
        """The prompt text for chat turns, up to where the assistant's text begins; see `ChatTemplate.render`.

        Raises:
            BundleError: there is no chat template, or it refuses these turns.
        """
        return self.template.render(messages, date=date)

    def stream(self) -> PieceStream:
        """A decoder of ids into text as they come."""
        return PieceStream(self)

    def stop_ids(self) -> frozenset[int]:
        """Every token that ends a turn or a text, the one with which the chat template ends an assistant's turn too."""
        is_end = self._llama.llama_vocab_is_eog
        ends = {token for token in range(self.vocab_size) if is_end(self._vocabulary, token)}
        behind = "" if self._template is None else self._template.behind_answer.lstrip()
        if match := self._pattern.match(behind):
            ends.add(self._control[match.group()])
        return frozenset(ends)

    def _special(self, get: Any) -> str:
        token = int(get(self._vocabulary))
        return "" if token < 0 else self._text(token)

    def _text(self, token: int) -> str:
        """A token as the vocabulary spells it."""
        return str(self._llama.llama_vocab_get_text(self._vocabulary, token).decode())

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE)
        length = self._llama.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = self._llama.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[:length]


class PieceStream:
    """Whole characters from a stream of ids, as `edgereason.text.tokenizer.TextStream`."""

    def __init__(self, tokenizer: GgufTokenizer) -> None:
        self._tokenizer = tokenizer
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        return self._characters.decode(self._tokenizer._piece(token))
