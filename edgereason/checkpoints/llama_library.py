"""llama.cpp as a library: imported when it is first needed, silent, its log kept for whoever listens.

llama.cpp has one log for the whole process and writes it to stderr. Here it goes to a function of the calling thread
instead, so that a failure can be explained with the library's own last complaint.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from edgereason.errors import BundleError, EngineError

ERROR = 4
"""`GGML_LOG_LEVEL_ERROR` in ggml.h."""

_listener = threading.local()


@cache
def llama_library() -> Any:
    """The module `llama_cpp`, with its log turned off and its backends ready.

    Raises:
        EngineError: llama-cpp-python is not installed, or its library does not load.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise EngineError(
            "llama-cpp-python is not installed, which the engine llama.cpp is made of.",
            'Install it: pip install "edgereason[gguf]"',
        ) from error
    except (OSError, RuntimeError) as error:  # a shared library of its own is missing or broken
        raise EngineError(
            f"llama-cpp-python cannot load its library: {error}",
            "Reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        ) from error
    llama_cpp.llama_log_set(_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def _callback(llama_cpp: Any) -> Any:
    """The log function as C sees it, kept alive by the cache for as long as the process."""

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        on_line: Callable[[int, str], None] | None = getattr(_listener, "on_line", None)
        if on_line is not None:
            on_line(level, text.decode("utf-8", errors="replace").strip())

    return log


@contextmanager
def listening(on_line: Callable[[int, str], None]) -> Iterator[None]:
    """Give what this thread's calls log to `on_line(level, line)` while the block runs."""
    _listener.on_line = on_line
    try:
        yield
    finally:
        _listener.on_line = None


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect the errors that this thread's calls log while the block runs."""
    lines: list[str] = []
    with listening(lambda level, line: lines.append(line) if level == ERROR else None):
        yield lines


@contextmanager
def without_weights(path: Path) -> Iterator[Any]:
    """A GGUF file's metadata and vocabulary as llama.cpp's `llama_model *`, freed after the block.

    Raises:
        BundleError: llama.cpp cannot read the file.
    """
    llama = llama_library()
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise BundleError(f"{path} cannot be read by llama.cpp.", "Export the bundle again.")
    try:
        yield model
    finally:
        llama.llama_model_free(model)
