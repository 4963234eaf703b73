"""Several questions after each other, each seen with those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from edgereason.bundle import STAGES
from edgereason.pipeline.options import AskKeywords, AskOptions
from edgereason.pipeline.reasoner import Reasoner
from edgereason.pipeline.results import Event, Result
from edgereason.text.prompts import prompt_text


@dataclass
class Conversation:
    """A conversation with a loaded bundle.

    What two turns have in common is not computed again: the reasoner's prefix cache holds it. When the model's context
    is full, the oldest turns are left out, never a part of the question.

    Attributes:
        reasoner: Who answers.
        results: The turns so far, oldest first. An answer that was stopped is none of them.
        left_out: How many of the oldest turns the last question was asked without.
    """

    reasoner: Reasoner
    results: list[Result] = field(default_factory=list)
    left_out: int = 0

    @property
    def remembers(self) -> bool:
        """Whether the models were trained to see earlier turns; if not, each question stands alone."""
        return any(self.reasoner.bundle.stages[name].prompt.history for name in STAGES)

    def stream(self, question: str, **options: Unpack[AskKeywords]) -> Iterator[Event]:
        """Ask the next question; events as of `Reasoner.stream`, which says what the options are.

        Closing the iterator early stops the answer, and the conversation goes on as if it had not been asked.
        """
        asked = AskOptions(**options)
        turns = self.results[self.left_out :]
        while turns and not self._fits(question, replace(asked, history=turns)):
            turns = turns[1:]
        self.left_out = len(self.results) - len(turns)
        options["history"] = turns
        for event in self.reasoner.stream(question, **options):
            if event.result is not None:
                self.results.append(event.result)
            yield event

    def clear(self) -> None:
        """Begin anew."""
        self.results.clear()
        self.left_out = 0

    def to_json(self) -> list[dict[str, Any]]:
        """The turns as plain dictionaries, strings and numbers."""
        return [result.to_json() for result in self.results]

    def _fits(self, question: str, options: AskOptions) -> bool:
        """Whether both stages can write their longest texts after the turns before."""
        stages = options.stages(self.reasoner.bundle.stages)
        before = 0
        for name, model in self.reasoner.models.items():
            text = prompt_text(model.tokenizer, stages[name].prompt, question, "" if before else None)
            ids = model.tokenizer.encode(text)
            if len(ids) + before + stages[name].max_new_tokens > model.engine.context_length:
                return False
            before = stages[name].max_new_tokens  # the guidance is part of what the answer model reads
        return True
