"""The calculator in the decoding loop: behind `<<16-3-4=` it writes `9>>` in place of the model.

GSM8K's solutions annotate their computations so, for a calculator that takes over at the `=` (Cobbe et al., arXiv
2110.14168). The tokens that it writes are forced: nothing is sampled for them, and one forward pass computes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgereason.text.calculator import CLOSING, LONGEST, OPENING, result_of
from edgereason.text.tokenizer import TextTokenizer


class ResultForcing:
    """Watches a text as its tokens are sampled, and tells how it goes on where the result of a computation is due.

    That is at the first `=` of an open computation that has a value (see `edgereason.text.calculator`): the result and
    `>>` follow. Where the sampled token brings more than the `=` (`=1` is one token in some vocabularies), tokens of
    the text up to the `=` stand in for it, and what it has behind that is dropped. All else is the model's, the number
    that often follows `>>` included.

    Args:
        tokenizer: The model's.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        # The text's end, as far as a computation may begin in it.
        self._ids: list[int] = []
        self._text = ""

    def take(self, token: int) -> list[int]:
        """The tokens that the text goes on with where the model has sampled `token`: often that one alone."""
        before, ids = self._text, [*self._ids, token]
        text = self._tokenizer.decode(ids)
        for due, result in _results(text, len(before)):
            start = [token] if due == text else []
            rest = continuation(self._tokenizer, self._ids + start, due + result)
            if rest is not None:
                self._ids, self._text = [], ""
                return start + rest
        self._ids, self._text = (ids, text) if _open(text) else ([], "")
        return [token]


def continuation(tokenizer: TextTokenizer, ids: Sequence[int], text: str) -> list[int] | None:
    """Tokens behind `ids` that make them decode to `text`, which their own text begins; None where none are found.

    They are those of `text` as the tokenizer divides it, where that agrees with the text of `ids` up to their end, and
    otherwise those of what is missing.
    """
    known = tokenizer.decode(ids)
    begin, whole = tokenizer.encode(known), tokenizer.encode(text)
    candidates = [whole[len(begin) :]] if whole[: len(begin)] == begin else []
    candidates.append(tokenizer.encode(text[len(known) :]))
    return next((rest for rest in candidates if tokenizer.decode([*ids, *rest]) == text), None)


def _results(text: str, known: int) -> Iterator[tuple[str, str]]:
    """Beginnings of `text`, longer than `known`, that end with the `=` of a computation, and what belongs there."""
    at = text.find("=", known)
    while at >= 0:
        result = result_of(text[: at + 1])
        if result is not None:
            yield text[: at + 1], result
        at = text.find("=", at + 1)


def _open(text: str) -> bool:
    """Whether a computation may begin at the end of `text`, or has begun and may still have a value."""
    _, opening, expression = text.rpartition(OPENING)
    begins = text.endswith(OPENING[0]) or (bool(opening) and CLOSING not in expression)
    return begins and len(text) <= 2 * LONGEST  # of which the token that brought the `<<` may have a part
