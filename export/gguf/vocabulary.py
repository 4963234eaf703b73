"""The vocabulary as GGUF lists it: text, type and, for SentencePiece, score of every token id."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer

from edgereason.errors import ExportError

_SPACE = "▁"  # as SentencePiece writes it
_ADDED_SCORE = -1000.0
_UNUSED_SCORE = -10000.0


@dataclass
class Vocabulary:
    """`tokens`, `types` and `scores`, by id; ids without a token have a placeholder."""

    tokens: list[str]
    types: list[TokenType]
    scores: list[float]

    @classmethod
    def empty(cls, size: int) -> Vocabulary:
        return cls([f"[PAD{id_}]" for id_ in range(size)], [TokenType.UNUSED] * size, [_UNUSED_SCORE] * size)

    def put(self, id_: int, token: str, kind: TokenType, score: float = 0.0) -> None:
        self.tokens[id_], self.types[id_], self.scores[id_] = token, kind, score

    def add(self, added: Iterable[tuple[int, AddedToken]]) -> None:
        """Put the added tokens; those that are special, or look special, are control tokens."""
        for id_, token in added:
            text = token.content
            if token.special or _looks_special(text):
                self.put(id_, text, TokenType.CONTROL, _ADDED_SCORE)
            else:
                self.put(id_, text.replace(_SPACE, " "), TokenType.USER_DEFINED, _ADDED_SCORE)


def byte_level(tokenizer: Tokenizer, size: int, where: Path) -> Vocabulary:
    """The vocabulary of a byte-level tokenizer, `size` ids.

    Raises:
        ExportError: it has ids beyond `size`.
    """
    vocabulary = Vocabulary.empty(size)
    for token, id_ in _names(tokenizer, size, where).items():
        vocabulary.put(id_, token, TokenType.NORMAL)
    vocabulary.add(_with_rows(tokenizer, size))
    return vocabulary


def sentence_pieces(tokenizer: Tokenizer, merges: list[tuple[str, str]], size: int, where: Path) -> Vocabulary:
    """The vocabulary of a tokenizer that was converted from SentencePiece, `size` ids.

    llama.cpp merges the neighbours whose union has the highest score, `tokenizers` those whose merge comes first: a
    token's score is minus the place of its first merge. Types and scores of a `tokenizer.model` go first.

    Raises:
        ExportError: it has ids beyond `size`, or `tokenizer.model` is damaged.
    """
    names = _names(tokenizer, size, where)
    vocabulary = Vocabulary.empty(size)
    model = where.with_name("tokenizer.model")
    if model.is_file():
        _put_model(vocabulary, model)
    else:
        first: dict[str, int] = {}
        for place, (left, right) in enumerate(merges, start=1):
            first.setdefault(left + right, place)
        unknown = tokenizer.model.unk_token
        for token, id_ in names.items():
            kind = TokenType.BYTE if re.fullmatch("<0x[0-9A-F]{2}>", token) else TokenType.NORMAL
            vocabulary.put(id_, token, TokenType.UNKNOWN if token == unknown else kind, -float(first.get(token, 0)))
    vocabulary.add(_with_rows(tokenizer, size))
    return vocabulary


def _put_model(vocabulary: Vocabulary, path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces: Any = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ExportError(f"{path} cannot be read: {error}.", "Copy it again from the model's source.") from error
    kinds = (
        (pieces.is_unknown, TokenType.UNKNOWN),
        (pieces.is_control, TokenType.CONTROL),
        (pieces.is_unused, TokenType.UNUSED),
        (pieces.is_byte, TokenType.BYTE),
    )
    for id_ in range(min(pieces.vocab_size(), len(vocabulary.tokens))):
        kind = next((kind for is_kind, kind in kinds if is_kind(id_)), TokenType.NORMAL)
        vocabulary.put(id_, pieces.id_to_piece(id_), kind, pieces.get_score(id_))


def _names(tokenizer: Tokenizer, size: int, where: Path) -> dict[str, int]:
    names: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    if max(names.values()) >= size:
        raise ExportError(
            f"{where} has the token id {max(names.values())}, but the model's embedding has {size} rows.",
            "Resize the model's embedding, or use the tokenizer that it was trained with.",
        )
    return names | {token.content: id_ for id_, token in _with_rows(tokenizer, size)}


def _with_rows(tokenizer: Tokenizer, size: int) -> list[tuple[int, AddedToken]]:
    """The added tokens that the model has rows for. Text models may lack those of images, which no text has."""
    return [(id_, token) for id_, token in tokenizer.get_added_tokens_decoder().items() if id_ < size]


def _looks_special(token: str) -> bool:
    """Tokens that some models' files do not mark as special; the list is that of llama.cpp's converter."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<\uff5c") and token.endswith("\uff5c>"))  # wide bars
        or (token.startswith("<unused") and token.endswith(">"))
    )


def write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, with_scores: bool) -> None:
    """Write the lists."""
    writer.add_token_list(vocabulary.tokens)
    if with_scores:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
