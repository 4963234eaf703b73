"""Examples as tokens: the very prompt that the pipeline renders, what is to be learned, and the end of the turn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import EdgeReasonWarning, UsageError
from edgereason.text.prompts import Prompt, prompt_text
from edgereason.text.tokenizer import Tokenizer

IGNORED = -100
"""The label of a token that has no part in the loss (PyTorch's `cross_entropy`)."""


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
        if not self.tokenizer.template.takes_system:
            warnings.warn(
                f"The chat template of {directory} has no system turn: the system text goes before the question.",
                EdgeReasonWarning,
                stacklevel=2,
            )
        self.end = _end_of_turn(self.tokenizer)

    def prompt(self, prompt: Prompt, question: str, guidance: str | None = None) -> str:
        """The text that a stage's model reads before it writes."""
        return prompt_text(self.tokenizer, prompt, question, guidance)

    def tokens(self, prompt: Prompt, question: str, guidance: str | None, completion: str) -> Tokens:
        """A stage's prompt and what it is to write."""
        text = self.prompt(prompt, question, guidance)
        before = self.tokenizer.encode(text)
        whole = self.tokenizer.encode(text + completion)
        # Where the text's pieces merge across the border, the prompt keeps the tokens that inference gives it.
        after = whole[len(before) :] if whole[: len(before)] == before else self.tokenizer.encode(completion)
        return Tokens([*before, *after, self.end], len(before))


def _end_of_turn(tokenizer: Tokenizer) -> int:
    """What ends the assistant's turn: the token that the chat template puts there, or else the tokenizer's own."""
    stops = tokenizer.stop_ids()
    if not stops:
        raise UsageError(
            f"{tokenizer.directory} defines no end token.", 'Set "eos_token" in its tokenizer_config.json.'
        )
    end = tokenizer.end_id if tokenizer.turn_end_id is None else tokenizer.turn_end_id
    return min(stops) if end is None else end
