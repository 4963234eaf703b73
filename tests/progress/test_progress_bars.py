"""Progress on a terminal: a bar for each step."""

from __future__ import annotations

import io

from rich.console import Console

from edgereason.progress.bars import progress_bars


def test_each_step_has_a_bar_with_its_detail() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with progress_bars("export", console, transient=False) as report:
        report("merging [x]", 1, 4)
        report("merging [x]", 4, 4)
        report("training", 1, 2, "loss 0.25")
    last = text.getvalue().rsplit("merging [x]", 1)[-1]
    assert "4/4" in last
    assert "1/2" in last
    assert "loss 0.25" in last
    assert "export" not in last


def test_transient_bars_vanish() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with progress_bars("export", console, transient=True) as report:
        report("merging", 4, 4)
    assert text.getvalue().endswith("\x1b[2K")
