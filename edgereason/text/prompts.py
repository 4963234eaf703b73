"""The two stages' prompts.

A prompt belongs to the adapter that was trained with it: training writes it beside the adapter as `prompt.json`,
export puts it into the bundle's manifest, and the pipeline renders it with the model's own chat template. The two
stages follow Solution Guidance Fine-Tuning (arXiv 2412.09906).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from edgereason.errors import BundleError
from edgereason.text.control_tokens import FindControl, Span, mark, mark_all, without_marks

if TYPE_CHECKING:
    from edgereason.text.chat_template import ChatTemplate, Messages

_FIELDS = {
    "system": str,
    "user": str,
    "user_alone": str,
    "history": bool,
    "calculator": bool,
    "min_confidence": float,
    "date": str,
}


@dataclass(frozen=True)
class Prompt:
    """One stage's prompt.

    Attributes:
        system: The system turn; empty for none.
        user: The user turn, with `{question}` and, in the answer stage, `{guidance}` as placeholders.
        user_alone: The answer stage's user turn where there is no guidance.
        history: Whether the adapter was trained to see earlier turns of a conversation; without it each question stands
            alone.
        calculator: Whether the adapter was trained to write its computations as `<<16-3-4=9>>`, so that the decoding
            loop can write the results (`edgereason.decoding.result_forcing`); of the answer stage.
        min_confidence: The guidance's confidence (`edgereason.decoding.confidence`) below which its question is outside
            of what the adapter knows, a number from 0 to 1; None where nobody measured it.
        date: What a chat template that writes today's date takes for today, so that the prompt stays the one of the
            adapter's training; None for today.
        special_tokens: Whether special tokens in the question and its guidance are encoded as such. By default they are
            text like all other, so that a question cannot end its own turn.
        earlier: The turns of a conversation before the question.
    """

    system: str
    user: str
    user_alone: str = "{question}"
    history: bool = True
    calculator: bool = False
    min_confidence: float | None = None
    date: datetime.date | None = None
    special_tokens: bool = False
    earlier: tuple[tuple[str, str | None, str], ...] = ()

    def after(self, turns: Sequence[tuple[str, str | None, str]]) -> Prompt:
        """The prompt of a question that follows `turns`: (question, guidance, what this stage wrote) of each."""
        if not self.history:
            return self
        return replace(self, earlier=tuple(turns))

    def messages(
        self, question: str, guidance: str | None = None, control: FindControl | None = None
    ) -> list[dict[str, str]]:
        """The chat turns for a question, ready for a chat template.

        Args:
            question: The question.
            guidance: What the answer stage is given with it.
            control: Finds the control tokens, which are marked as text where others than the adapter's author wrote
                them; None leaves all text as it is.
        """
        control = None if self.special_tokens else control
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for asked, guided, wrote in self.earlier:
            turns.append({"role": "user", "content": self._user(asked, guided, control)})
            turns.append({"role": "assistant", "content": mark_all(wrote, control) if control else wrote})
        return [*turns, {"role": "user", "content": self._user(question, guidance, control)}]

    def _user(self, question: str, guidance: str | None, control: FindControl | None) -> str:
        template = self.user if guidance is not None or "{guidance}" not in self.user else self.user_alone
        values = {"{question}": question, "{guidance}": guidance or ""}
        if control:
            values = {name: without_marks(value) for name, value in values.items()}
        text, spans = "", list[Span]()
        # One pass, so that a question that contains "{guidance}" stays as it is.
        for piece in re.split(r"(\{question\}|\{guidance\})", template):
            if piece in values:
                spans.append((len(text), len(text) + len(values[piece])))
            text += values.get(piece, piece)
        return mark(text, spans, control) if control else text

    def to_json(self) -> dict[str, Any]:
        trained = {
            **({} if self.history else {"history": False}),
            **({"calculator": True} if self.calculator else {}),
            **({} if self.min_confidence is None else {"min_confidence": self.min_confidence}),
            **({} if self.date is None else {"date": self.date.isoformat()}),
        }
        return {"system": self.system, "user": self.user, "user_alone": self.user_alone, **trained}

    @classmethod
    def from_json(cls, value: object, where: str) -> Prompt:
        """Read a prompt; `where` names its file in the error of one that is not a prompt.

        Raises:
            BundleError: a field is missing, unknown, or not a string.
        """
        if not isinstance(value, dict) or not set(value) <= set(_FIELDS) or not {"system", "user"} <= set(value):
            raise BundleError(f"{where} is not a prompt.", 'It needs the strings "system" and "user".')
        typed = all(isinstance(field, _FIELDS[name]) for name, field in value.items())
        if not typed or not 0 <= value.get("min_confidence", 0) <= 1:
            raise BundleError(
                f"{where} is not a prompt.",
                "Its fields have to be strings, history and calculator true or false, min_confidence from 0.0 to 1.0.",
            )
        try:
            day = datetime.date.fromisoformat(value["date"]) if "date" in value else None
        except ValueError as error:
            raise BundleError(f"{where} has the date {value['date']!r}.", 'Write it as "2026-12-31".') from error
        return cls(**{**value, "date": day})


def dated(prompt: Prompt, template: ChatTemplate, date: datetime.date) -> Prompt:
    """A prompt that keeps `date` where it has no date and its chat template writes one."""
    return replace(prompt, date=date) if prompt.date is None and template.asks_date else prompt


class Rendering(Protocol):
    """What a prompt needs of a tokenizer."""

    def control(self, text: str) -> list[Span]: ...

    def render(self, messages: Messages, date: datetime.date | None = None) -> str: ...


def prompt_text(tokenizer: Rendering, prompt: Prompt, question: str, guidance: str | None = None) -> str:
    """A stage's prompt for a question, as its model reads it and the tokenizer's `encode` takes it.

    Control tokens in the text of others are marked (`edgereason.text.control_tokens`).

    Raises:
        BundleError: there is no chat template, or it refuses these turns.
    """
    return tokenizer.render(prompt.messages(question, guidance, tokenizer.control), prompt.date)


GUIDANCE = Prompt(
    system="Write a solution guidance: what is asked, what is given, the steps. Compute nothing.",
    user="{question}",
)
ANSWER = Prompt(
    system="Answer step by step and end with #### and the result.",
    user="{question}\n\nGuidance:\n{guidance}",
)
DEFAULT_PROMPTS = {"guidance": GUIDANCE, "answer": ANSWER}
"""Of adapters that bring none."""
