"""Several questions after each other, each seen with those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgereason.bundle import STAGES, Stage
from edgereason.pipeline import Reasoner
from edgereason.results import Event, Result


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

    def stream(self, question: str, **options: Any) -> Iterator[Event]:
        """Ask the next question; events as of `Reasoner.stream`, which says what the options are.

        Closing the iterator early stops the answer, and the conversation goes on as if it had not been asked.
        """
        stages = self.reasoner.stages(options.get("max_new_tokens"), None, None)
        turns = self.results[self.left_out :]
        while turns and not self._fits(question, turns, stages):
            turns = turns[1:]
        self.left_out = len(self.results) - len(turns)
        for event in self.reasoner.stream(question, history=turns, **options):
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

    def _fits(self, question: str, turns: list[Result], stages: dict[str, Stage]) -> bool:
        """Whether both stages can write their longest texts after these turns."""
        guidance_tokens = stages["guidance"].max_new_tokens
        for name, before in (("guidance", 0), ("answer", guidance_tokens)):
            model = self.reasoner.models[name]
            prompt = remembered(stages[name], name, turns).prompt
            ids = model.tokenizer.encode(model.tokenizer.render(prompt.messages(question, "" if before else None)))
            if len(ids) + before + stages[name].max_new_tokens > model.engine.context_length:
                return False
        return True


def remembered(stage: Stage, name: str, turns: list[Result]) -> Stage:
    """A stage that sees earlier turns."""
    from dataclasses import replace

    texts = [(turn.question, turn.guidance or None, turn.guidance if name == "guidance" else turn.answer) for turn in turns]
    if name == "guidance":  # its own prompt shows no guidance, and turns without one are no example for it
        texts = [(asked, None, wrote) for asked, guided, wrote in texts if guided]
    return replace(stage, prompt=stage.prompt.after(texts))
