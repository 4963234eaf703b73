"""The tokenizer inside a GGUF file, through llama.cpp: for models that come without `tokenizer.json`."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgereason.errors import BundleError
from edgereason.text.chat_template import ChatTemplate

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
        self._template = ChatTemplate(source.decode(), file) if source else None

    @property
    def vocab_size(self) -> int:
        return int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; special tokens written in it become their ids, none are added."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocabulary, data, len(data), ids, len(ids), False, True)
        if count < 0:
            raise BundleError(f"{self._file} cannot tokenize this text.", "Give another model.")
        return list(ids[:count])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return b"".join(map(self._piece, ids)).decode(errors="replace")

    def render(self, messages: Iterable[dict[str, str]]) -> str:
        """The prompt text for chat turns, up to where the assistant's text begins.

        Raises:
            BundleError: there is no chat template, or it refuses these turns.
        """
        if self._template is None:
            raise BundleError(f"{self._file} has no chat template.", "Give a model that is trained to chat.")
        special = {
            "bos_token": self._llama.llama_vocab_bos,
            "eos_token": self._llama.llama_vocab_eos,
            "unk_token": lambda _: -1,
        }
        return self._template.render(messages, {name: self._special(get) for name, get in special.items()})

    def stream(self) -> PieceStream:
        """A decoder of ids into text as they come."""
        return PieceStream(self)

    def stop_ids(self) -> frozenset[int]:
        """Every token that ends a turn or a text."""
        is_end = self._llama.llama_vocab_is_eog
        return frozenset(token for token in range(self.vocab_size) if is_end(self._vocabulary, token))

    def _special(self, get: Any) -> str:
        token = int(get(self._vocabulary))
        return "" if token < 0 else str(self._llama.llama_vocab_get_text(self._vocabulary, token).decode())

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
