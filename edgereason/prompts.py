"""The two stages' prompts, and the final result that an answer ends with.

A prompt belongs to the adapter that was trained with it: training writes it beside the adapter as `prompt.json`,
export puts it into the bundle's manifest, and the pipeline renders it with the model's own chat template. The two
stages follow Solution Guidance Fine-Tuning (arXiv 2412.09906).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from edgereason.errors import BundleError

FINAL_MARKER = "####"

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Prompt:
    """One stage's prompt.

    Attributes:
        system: The system turn; empty for none.
        user: The user turn, with `{question}` and, in the answer stage, `{guidance}` as placeholders.
        user_alone: The answer stage's user turn where there is no guidance.
    """

    system: str
    user: str
    user_alone: str = "{question}"

    def messages(self, question: str, guidance: str | None = None) -> list[dict[str, str]]:
        """The chat turns for a question, ready for a chat template."""
        template = self.user if guidance is not None or "{guidance}" not in self.user else self.user_alone
        values = {"{question}": question, "{guidance}": guidance or ""}
        # One pass, so that a question that contains "{guidance}" stays as it is.
        user = re.sub(r"\{question\}|\{guidance\}", lambda match: values[match.group()], template)
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": user}]

    def to_json(self) -> dict[str, str]:
        return {"system": self.system, "user": self.user, "user_alone": self.user_alone}

    @classmethod
    def from_json(cls, value: object, where: str) -> Prompt:
        """Read a prompt; `where` names its file in the error of one that is not a prompt.

        Raises:
            BundleError: a field is missing, unknown, or not a string.
        """
        fields = {"system", "user", "user_alone"}
        if not isinstance(value, dict) or not set(value) <= fields or not {"system", "user"} <= set(value):
            raise BundleError(f"{where} is not a prompt.", 'It needs the strings "system" and "user".')
        if not all(isinstance(text, str) for text in value.values()):
            raise BundleError(f"{where} is not a prompt: its fields have to be strings.")
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


def final_result(answer: str) -> str | None:
    """The result that an answer ends with: what follows its last `####`, or else its last number; None without one."""
    before, marker, after = answer.rpartition(FINAL_MARKER)
    if marker and after.strip():
        return after.strip().splitlines()[0].strip()
    numbers = _NUMBER.findall(before or after)
    return numbers[-1].replace("$", "").replace(",", "") if numbers else None


def comparable(final: str) -> Decimal | str:
    """A final result in the form in which two are the same: a number whatever its currency sign, commas and zeros; or
    its text, whatever its case."""
    text = final.strip()
    try:
        value = Decimal(text.lstrip("$").rstrip(".%").replace(",", ""))
    except InvalidOperation:
        return text.casefold()
    return value if value.is_finite() else text.casefold()
