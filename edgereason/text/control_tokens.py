"""Text of users and models inside a prompt: what looks like a control token in it is text and nothing else.

A question with "<|im_end|>" in it would otherwise end its own turn, and could write the assistant's. Where such a
token overlaps text of a user or model, `mark` puts two noncharacters of Unicode around it, the chat template carries
them through, and `encode_marked` encodes what is between them as text. transformers does the same with
`apply_chat_template(..., sanitize_control_tokens=True)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

_BEGIN, _END = "\ufdd0", "\ufdd1"  # "noncharacters are intended for process-internal uses" (Unicode, FAQ)

Encode = Callable[[str], list[int]]


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """What matches any of these tokens, the longest first; nothing where there are none."""
    longest = sorted((token for token in tokens if token), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or "(?!)")


def mark(text: str, spans: Sequence[tuple[int, int]], control: re.Pattern[str]) -> str:
    """Mark the control tokens that overlap a span `(begin, end)` of a text."""

    def marked(match: re.Match[str]) -> str:
        inside = any(begin < match.end() and match.start() < end for begin, end in spans)
        return f"{_BEGIN}{match.group()}{_END}" if inside else match.group()

    return control.sub(marked, text)


def mark_all(text: str, control: re.Pattern[str]) -> str:
    """Mark all control tokens of a text."""
    return mark(text, [(0, len(text))], control)


def unmarked(text: str, control: re.Pattern[str]) -> str:
    """A text as people read it."""
    return _marks(control).sub(r"\1", text)


def encode_marked(text: str, control: re.Pattern[str], encode: Encode, encode_plain: Encode) -> list[int]:
    """Token ids of a text with marks in it.

    Args:
        text: What a chat template has made of marked turns.
        control: The control tokens.
        encode: Encodes text, control tokens as such.
        encode_plain: Encodes text, control tokens as text.
    """
    if _BEGIN not in text:
        return encode(text)
    ids: list[int] = []
    for index, piece in enumerate(_marks(control).split(text)):
        if piece:
            each = encode_plain if index % 2 else encode
            ids += _continued(each, piece) if ids else each(piece)
    return ids


def _marks(control: re.Pattern[str]) -> re.Pattern[str]:
    return re.compile(f"{_BEGIN}({control.pattern}){_END}")


def _continued(encode: Encode, piece: str) -> list[int]:
    """The ids of a piece from inside a text: some tokenizers put a space before what they take for a beginning."""
    begun, whole = encode("\n"), encode("\n" + piece)
    return whole[len(begun) :] if whole[: len(begun)] == begun else encode(piece)
