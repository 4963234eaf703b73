"""Errors of what an export reads, in its own words.

What a bundle's reader calls a damaged bundle is here a damaged input; what a library cannot use is one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from edgereason.errors import BundleError, EdgeReasonError, ExportError

_LIBRARIES = (
    "accelerate",
    "gguf",
    "huggingface_hub",
    "jinja2",
    "onnx",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


@contextmanager
def as_export_errors() -> Iterator[None]:
    """Raise the `BundleError`s of the block as `ExportError`s of the same words."""
    try:
        yield
    except BundleError as error:
        raise ExportError(error.what, error.cure) from error


@contextmanager
def library_errors(what: str, cure: str) -> Iterator[None]:
    """Raise what a library raises in the block as one sentence: it is about the inputs. Other errors stay as they are.

    Args:
        what: What is done in the block, for the beginning of the sentence.
        cure: What to do.

    Raises:
        ExportError: transformers, PEFT, torch or another library has failed.
    """
    try:
        yield
    except EdgeReasonError:
        raise
    except Exception as error:
        library = _library(error)
        if library is None:
            raise
        raise ExportError(f"{what} failed in {library}: {last_line(error)}", cure) from error


def last_line(error: Exception) -> str:
    """The last line of an error, which is where torch names what does not fit."""
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__


def _library(error: Exception) -> str | None:
    """The library that has raised an error; None where it was none."""
    if type(error) is Exception:  # tokenizers' have no type and no frame of their own
        return "tokenizers"
    frames = [str(frame.f_globals.get("__name__", "")) for frame, _ in walk_tb(error.__traceback__)]
    for module in (type(error).__module__, *frames[-1:]):
        if (root := module.partition(".")[0]) in _LIBRARIES:
            return root
    return None
