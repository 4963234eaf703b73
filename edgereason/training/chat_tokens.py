"""Examples as tokens: the very prompt that the pipeline renders, what is to be learned, and the end of the turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import UsageError
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer

IGNORED = -100
"""The label of a token that has no part in the loss (PyTorch's `cross_entropy`)."""

_PROBE = "edgereason"  # a word that no template has of its own


@dataclass(frozen=True)
class Tokens:
    """An example, ready for training.

    Attributes:
        ids: The prompt's tokens, the completion's, and the end of the turn.
        prompt: How many of them are the prompt.
    """

    ids: list[int]
    prompt: int

    @property
    def labels(self) -> list[int]:
        """What is to be predicted at each place: `ids`, with IGNORED for the prompt."""
        return [IGNORED] * self.prompt + self.ids[self.prompt :]


class Chat:
    """A model's tokenizer and chat template, as the pipeline uses them.

    Args:
        directory: The base.

    Raises:
        BundleError: it has no tokenizer.json or no chat template.
        UsageError: nothing says how a turn ends.
    """

    def __init__(self, directory: Path) -> None:
        self.tokenizer = Tokenizer(directory)
        self.end = _end_of_turn(self.tokenizer)

    def prompt(self, prompt: Prompt, question: str, guidance: str | None = None) -> str:
        """The text that a stage's model reads before it writes."""
        return self.tokenizer.render(prompt.messages(question, guidance))

    def tokens(self, prompt: Prompt, question: str, guidance: str | None, completion: str) -> Tokens:
        """A stage's prompt and what it is to write."""
        text = self.prompt(prompt, question, guidance)
        before = self.tokenizer.encode(text)
        whole = self.tokenizer.encode(text + completion)
        # Where the text's pieces merge across the border, the prompt keeps the tokens that inference gives it.
        after = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer.encode(completion)
        return Tokens([*before, *after, self.end], len(before))


def _end_of_turn(tokenizer: Tokenizer) -> int:
    """What ends the assistant's turn: a stop token that the chat template puts there, or else the tokenizer's own."""
    stops = tokenizer.stop_ids()
    if tokenizer.end_id is None and not stops:
        raise UsageError(
            f"{tokenizer.directory} defines no end token.", 'Set "eos_token" in its tokenizer_config.json.'
        )
    turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
    behind = tokenizer.render(turns).rpartition(_PROBE)[2]
    end = next((id_ for id_ in tokenizer.encode(behind) if id_ in stops), tokenizer.end_id)
    return min(stops) if end is None else end
