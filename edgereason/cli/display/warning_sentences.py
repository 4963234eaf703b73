"""Our warnings as sentences."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from edgereason.errors import EdgeReasonWarning


@contextmanager
def shown_warnings(console: Console) -> Iterator[None]:
    """Print our warnings as sentences, and others as Python shows them."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def sentence(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, EdgeReasonWarning):
                console.print(f"warning: {message}", style="yellow", highlight=False, markup=False)
            else:
                show(message, category, *rest, **more)

        warnings.showwarning = sentence
        yield
