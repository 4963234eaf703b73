"""What the commands of `edgereason train` say in the end: where the adapter is, how to resume, what to install."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def training(out: Path) -> Iterator[None]:
    """Around a training command's work: shows progress and warnings, and ends with a sentence.

    Raises:
        UsageError: a library is not installed.
    """
    from edgereason.cli.display.interruption import interruptible
    from edgereason.cli.display.warning_sentences import shown_warnings
    from edgereason.errors import UsageError
    from edgereason.progress.consoles import plain_console
    from edgereason.progress.display import shown_progress

    console = plain_console(stderr=True)
    first = os.environ.get("RANK", "0") == "0"  # of several processes, the first one speaks
    stopped = "stopped; the same command with --resume continues from the last checkpoint."
    try:
        with (
            interruptible(stopped),
            shown_warnings(console),
            shown_progress(f"training {out}", console=console, transient=False, shown=first),
        ):
            yield
    except ModuleNotFoundError as error:
        raise UsageError(f"Training needs {error.name}.", 'pip install "edgereason[train]"') from error
    if first:
        console.print(f"{out}: a PEFT adapter for edgereason export", markup=False, soft_wrap=True)
