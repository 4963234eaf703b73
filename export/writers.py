"""One stage's model, written in the format that was asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgereason.export.merge import MergedWeights, copy_tokenizer, materialize
from edgereason.export.settings import Settings
from edgereason.tokenizer import Tokenizer

Report = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and their number."""


def write_stage(
    merged: MergedWeights, directory: Path, settings: Settings, report: Report
) -> tuple[frozenset[int], dict[str, Any]]:
    """Write one stage's directory: its model, tokenizer and generation defaults.

    Returns:
        The tokens that end the stage's text, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """
    copy_tokenizer(merged.tokenizer, directory)
    if (merged.base / "generation_config.json").is_file():
        shutil.copyfile(merged.base / "generation_config.json", directory / "generation_config.json")
    stored = _WRITERS[settings.format](merged, directory, settings, report)
    return _stop_ids(merged.config, directory), stored


def _write_native(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    from edgereason.export.native import write_native

    write_native(directory, merged.config, merged, settings.bits, progress=_step(report, _writing(settings)))
    return {"group_size": 32, "method": "rtn"} if settings.bits < 16 else {"type": "f16"}


def _write_gguf(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    from edgereason.export.gguf import write_gguf

    assert settings.gguf_type is not None
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        materialize(merged, Path(temporary), _step(report, "merging"))
        write_gguf(
            Path(temporary),
            directory / "model.gguf",
            settings.gguf_type,
            _step(report, f"writing {settings.gguf_type}"),
        )
    return {"type": settings.gguf_type}


def _write_onnx(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    from edgereason.export.onnx import write_onnx

    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        materialize(merged, Path(temporary), _step(report, "merging"))
        return write_onnx(Path(temporary), directory, settings.bits, _step(report, _writing(settings)))


_WRITERS: dict[str, Callable[[MergedWeights, Path, Settings, Report], dict[str, Any]]] = {
    "native": _write_native,
    "gguf": _write_gguf,
    "onnx": _write_onnx,
}


def _writing(settings: Settings) -> str:
    return f"writing {settings.bits}-bit {settings.format}"


def _step(report: Report, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)


def _stop_ids(config: dict[str, Any], directory: Path) -> frozenset[int]:
    """The tokens that end the stage's text, by its configuration, tokenizer and generation defaults."""
    end = config.get("eos_token_id")
    configured = end if isinstance(end, list) else [] if end is None else [end]
    return Tokenizer(directory).stop_ids() | frozenset(configured)
