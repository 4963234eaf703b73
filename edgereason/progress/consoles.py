"""Consoles that show every text as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console for texts of others, such as paths, questions and answers.

    It takes `[a]` for no markup and `:x:` for no emoji, and colors neither numbers nor paths.

    Args:
        stderr: Whether it writes to standard error.
        soft_wrap: Whether lines are left for the terminal to wrap.
    """
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)
