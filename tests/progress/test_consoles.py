"""What people and models write is shown as it is, whatever looks like markup or emoji in it."""

from __future__ import annotations

import io
import re

import pytest
from places import ROOT
from rich.table import Table

from edgereason.progress.bars import progress_bars
from edgereason.progress.consoles import plain_console

TEXTS = ["[a]*", "[/]", "[bold]x[/bold]", ":x:", "C:\\[1]", "\\[a]"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_and_cells_are_shown_as_they_are(text: str) -> None:
    console = plain_console()
    console.file = io.StringIO()
    console.print(text, style="dim")
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    assert console.file.getvalue().count(text) == 4


@pytest.mark.parametrize("text", TEXTS)
def test_steps_and_their_details_are_shown_as_they_are(text: str) -> None:
    console = plain_console()
    console.file = io.StringIO()
    with progress_bars(text, console, transient=False) as report:
        report(f"step {text}", 1, 1, f"loss {text}")
    written = console.file.getvalue()
    assert f"step {text}" in written
    assert f"loss {text}" in written


def test_there_is_no_other_console() -> None:
    made = [
        file.relative_to(ROOT).as_posix()
        for folder in ("edgereason", "export")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if re.search(r"(?<!plain_)\bConsole\(", file.read_text(encoding="utf-8"))
    ]
    assert made == ["edgereason/progress/consoles.py"]
