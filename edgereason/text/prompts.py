"""The two stages' prompts.

A prompt belongs to the adapter that was trained with it: training writes it beside the adapter as `prompt.json`,
export puts it into the bundle's manifest, and the pipeline renders it with the model's own chat template. The two
stages follow Solution Guidance Fine-Tuning (arXiv 2412.09906).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgereason.errors import BundleError

_FIELDS = {
    "system": str,
    "user": str,
    "user_alone": str,
    "history": bool,
    "calculator": bool,
    "min_confidence": float,
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
        earlier: The turns of a conversation before the question.
    """

    system: str
    user: str
    user_alone: str = "{question}"
    history: bool = True
    calculator: bool = False
    min_confidence: float | None = None
    earlier: tuple[tuple[str, str], ...] = ()

    def after(self, turns: Sequence[tuple[str, str | None, str]]) -> Prompt:
        """The prompt of a question that follows `turns`: (question, guidance, what this stage wrote) of each."""
        if not self.history:
            return self
        return replace(self, earlier=tuple((self._user(asked, guided), wrote) for asked, guided, wrote in turns))

    def messages(self, question: str, guidance: str | None = None) -> list[dict[str, str]]:
        """The chat turns for a question, ready for a chat template."""
        turns = [{"role": "system", "content": self.system}] if self.system else []
        for asked, wrote in self.earlier:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": wrote}]
        return [*turns, {"role": "user", "content": self._user(question, guidance)}]

    def _user(self, question: str, guidance: str | None) -> str:
        template = self.user if guidance is not None or "{guidance}" not in self.user else self.user_alone
        values = {"{question}": question, "{guidance}": guidance or ""}
        # One pass, so that a question that contains "{guidance}" stays as it is.
        return re.sub(r"\{question\}|\{guidance\}", lambda match: values[match.group()], template)

    def to_json(self) -> dict[str, Any]:
        trained = {
            **({} if self.history else {"history": False}),
            **({"calculator": True} if self.calculator else {}),
            **({} if self.min_confidence is None else {"min_confidence": self.min_confidence}),
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
        return cls(**value)


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
