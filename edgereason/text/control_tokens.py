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
_MARKS = re.compile(f"{_BEGIN}([^{_BEGIN}{_END}]*){_END}|[{_BEGIN}{_END}]")

Encode = Callable[[str], list[int]]
Span = tuple[int, int]
"""Where something begins and ends in a text."""
FindControl = Callable[[str], Sequence[Span]]
"""Finds the control tokens of a text."""


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """What matches any of these tokens, the longest first; nothing where there are none."""
    longest = sorted((token for token in tokens if token), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or "(?!)")


def without_marks(text: str) -> str:
    """A text without the two characters that mark control tokens, so that nobody else can set marks."""
    return text.replace(_BEGIN, "").replace(_END, "")


def mark(text: str, written: Sequence[Span], find: FindControl) -> str:
    """Mark the control tokens that overlap what others have written.

    Args:
        text: A text without marks.
        written: Where others have written it.
        find: Finds its control tokens.
    """
    pieces, at = [], 0
    for begin, end in sorted(find(text)):
        if begin >= at and any(first < end and begin < last for first, last in written):
            pieces += [text[at:begin], _BEGIN, text[begin:end], _END]
            at = end
    return "".join([*pieces, text[at:]])


def mark_all(text: str, find: FindControl) -> str:
    """Mark all control tokens of a text that others have written."""
    text = without_marks(text)
    return mark(text, [(0, len(text))], find)


def encode_marked(text: str, encode: Encode, encode_plain: Encode) -> list[int]:
    """Token ids of a text with marks in it.

    Args:
        text: What a chat template has made of marked turns. A template may have split it between two marks: the one
            that is left goes, and the text on both sides of it stays apart.
        encode: Encodes text, control tokens as such.
        encode_plain: Encodes text, control tokens as text.
    """
    if _BEGIN not in text and _END not in text:
        return encode(text)
    ids: list[int] = []
    for index, piece in enumerate(_MARKS.split(text)):
        if piece:
            each = encode_plain if index % 2 else encode
            ids += _continued(each, piece) if ids else each(piece)
    return ids


def _continued(encode: Encode, piece: str) -> list[int]:
    """The ids of a piece from inside a text: some tokenizers put a space before what they take for a beginning."""
    begun, whole = encode("\n"), encode("\n" + piece)
    return whole[len(begun) :] if whole[: len(begun)] == begun else encode(piece)
