"""Errors of files that an export reads: what a bundle's reader calls a damaged bundle is here a damaged input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgereason.errors import BundleError, ExportError


@contextmanager
def as_export_errors() -> Iterator[None]:
    """Raise the `BundleError`s of the block as `ExportError`s of the same words."""
    try:
        yield
    except BundleError as error:
        raise ExportError(error.what, error.cure) from error
