"""Write docs/commands.md from the program's own help: `python docs/commands.py` (or `make docs`)."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from edgereason.cli.app import app

PAGE = Path(__file__).parent / "commands.md"


def render() -> str:
    """The page's text."""
    parts = ["# Commands", "What `--help` says; `make docs` writes this page.", _help()]
    for command in app.registered_commands:
        parts += [f"## edgereason {command.name}", _help(str(command.name))]
    for group in app.registered_groups:
        parts += [f"## edgereason {group.name}", _help(str(group.name))]
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            name = f"{group.name} {command.name}"
            parts += [f"### edgereason {name}", _help(str(group.name), str(command.name))]
    return "\n\n".join(parts) + "\n"


def _help(*command: str) -> str:
    width = {"terminal_width": 100, "max_content_width": 100}
    run = CliRunner().invoke(app, [*command, "--help"], prog_name="edgereason", **width)
    return f"```\n{run.output.rstrip()}\n```"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
