"""Options and values that have another name now: who uses the old one is told the new one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup

from edgereason.errors import UsageError

RENAMED_OPTIONS = {
    ("batch", "--size"): "--batch-size",
    ("data", "--size"): "--batch-size",
    ("eval", "--size"): "--batch-size",
    ("export", "--calibration"): "--calibration-text",
    ("export", "--damping"): "--dampening",
    ("train", "--rate"): "--learning-rate",
    ("train", "--batch"): "--batch-size",
    ("train", "--accumulate"): "--gradient-accumulation-steps",
    ("train", "--low-memory"): "--gradient-checkpointing",
}
"""By command and old option, the new option."""

RENAMED_VALUES = {("--off", "reading-along"): "overlapped-prefill"}
"""By option and old value, the new value."""

GLOBAL_OPTIONS = ("--debug", "--log-json")
"""Options that stand before the command."""


class RenamingGroup(TyperGroup):
    """The program: answers unknown options of its commands where it knows what is meant."""

    def invoke(self, ctx: Any) -> Any:  # a context of the click that this typer uses
        try:
            return super().invoke(ctx)
        except Exception as error:
            # By its name: typer brings a click of its own, whose exceptions it does not make public.
            if type(error).__name__ == "NoSuchOption":
                _answer(getattr(error, "option_name", ""), getattr(error, "ctx", None) or ctx)
            raise


def refuse_renamed_values(option: str, values: Iterable[str]) -> None:
    """Say what an old value of an option is called now.

    Raises:
        UsageError: there is one among the values.
    """
    for value in values:
        if new := RENAMED_VALUES.get((option, value)):
            raise UsageError(f"`{option} {value}` is now `{option} {new}`.")


def _answer(option: str, ctx: Any) -> None:
    command = ctx.command_path.removeprefix(ctx.find_root().command_path).split()
    for name in command:
        if new := RENAMED_OPTIONS.get((name, option)):
            raise UsageError(f"`{option}` is now `{new}`.") from None
    if option in GLOBAL_OPTIONS:
        raise UsageError(f"`{option}` comes before the command: edgereason {option} {' '.join(command)} ...") from None
