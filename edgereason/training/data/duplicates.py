"""Texts that say the same: exact duplicates, and near ones by the words that they share in order.

The measure is the resemblance of Broder (On the resemblance and containment of documents, 1997): the share of word
trigrams that two texts have in common among all that they have (Jaccard's index), case and punctuation aside. Each text
is compared with all that came before through an index from trigram to texts, which is quick for the few thousand
texts that suffice.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Literal

NEAR = 0.8
"""From this resemblance on two texts are near duplicates."""

_LENGTH = 3


class Duplicates:
    """The texts so far.

    Args:
        near: From which resemblance on a text is a near duplicate; above 1 for exact duplicates only.
    """

    def __init__(self, near: float = NEAR) -> None:
        self._near = near
        self._exact: set[str] = set()
        self._sizes: list[int] = []
        self._texts_with: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> Literal["exact", "near"] | None:
        """Take up a text, unless it is a duplicate of one before; says of which kind, None for a new text."""
        words = re.findall(r"\w+", text.casefold())
        plain = " ".join(words)
        if plain in self._exact:
            return "exact"
        shingles = _shingles(words)
        if self._resembles_one(shingles):
            return "near"
        self._exact.add(plain)
        for shingle in shingles:
            self._texts_with[shingle].append(len(self._sizes))
        self._sizes.append(len(shingles))
        return None

    def _resembles_one(self, shingles: set[str]) -> bool:
        shared = Counter(text for shingle in shingles for text in self._texts_with.get(shingle, ()))
        return any(
            common >= self._near * (len(shingles) + self._sizes[text] - common) for text, common in shared.items()
        )


def _shingles(words: list[str]) -> set[str]:
    """Every run of three words; of a shorter text, the text."""
    count = max(1, len(words) - _LENGTH + 1)
    return {" ".join(words[start : start + _LENGTH]) for start in range(count)}
