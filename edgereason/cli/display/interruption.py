"""Ctrl-C in a command: a sentence and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

INTERRUPTED = 130
"""The exit code that a shell reports for a program stopped by Ctrl-C."""


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Around a command's work: Ctrl-C prints the message and ends the program."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"\n{message}", err=True)
        raise typer.Exit(INTERRUPTED) from None
