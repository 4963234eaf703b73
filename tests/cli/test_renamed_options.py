"""Who uses an old name of an option is told the new one."""

from __future__ import annotations

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from edgereason.cli.app import app
from edgereason.cli.parameters.renamed_options import GLOBAL_OPTIONS, RENAMED_OPTIONS, RENAMED_VALUES
from edgereason.errors import UsageError
from edgereason.prefill.optimizations import Optimizations


def refusal(*arguments: str) -> UsageError:
    """What the program ends with; it prints this as a sentence."""
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, UsageError), error
    assert error.exit_code == 2
    return error


def commands(name: str) -> dict[str, set[str]]:
    """The options of a command, or of each command of a group, by what one types."""
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    each = {f"{name} {sub}": found for sub, found in getattr(command, "commands", {}).items()} or {name: command}
    return {typed: {option for p in found.params for option in p.opts} for typed, found in each.items()}


@pytest.mark.parametrize(("command", "old"), RENAMED_OPTIONS)
@pytest.mark.parametrize("form", ["{} 1", "{}=1"])
def test_an_old_option_is_answered_with_the_new_one(command: str, old: str, form: str) -> None:
    new = RENAMED_OPTIONS[command, old]
    answered = 0
    for typed, options in commands(command).items():
        assert old not in options, f"{typed} still has {old}"
        if new in options:
            error = refusal(*typed.split(), *form.format(old).split())
            assert error.what == f"`{old}` is now `{new}`."
            answered += 1
    assert answered, f"{command} has no {new}"


@pytest.mark.parametrize(("option", "old"), RENAMED_VALUES)
def test_an_old_value_is_answered_with_the_new_one(option: str, old: str) -> None:
    new = RENAMED_VALUES[option, old]
    assert refusal("ask", "How many?", option, old).what == f"`{option} {old}` is now `{option} {new}`."
    assert Optimizations.without([new]) != Optimizations()


@pytest.mark.parametrize("option", GLOBAL_OPTIONS)
def test_a_global_option_behind_the_command_is_told_its_place(option: str) -> None:
    found = refusal("train", "guidance", option)
    assert found.what == f"`{option}` comes before the command: edgereason {option} train guidance ..."


def test_any_other_unknown_option_is_refused_as_always() -> None:
    done = CliRunner().invoke(app, ["eval", "--accumulate"])
    assert done.exit_code == 2
    assert "No such option: --accumulate" in re.sub(r"\s+", " ", done.output)
