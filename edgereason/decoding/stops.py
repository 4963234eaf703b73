"""Stop strings, which may be spread over several pieces of a stream."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Ends a stream of text before the first of some strings, holding back what might become one of them."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take more text; returns what can be shown of it."""
        self._held += text
        found = [at for at in (self._held.find(string) for string in self._strings) if at >= 0]
        if found:
            self.hit = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(string) for string in self._strings), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def rest(self) -> str:
        """What was held back and did not become a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, string: str) -> int:
        """Length of the longest end of the held text that begins `string`."""
        longest = min(len(string) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(string[:n])), 0)
