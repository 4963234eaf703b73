"""One stage's model, written in the format that was asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgereason.export.merge import MergedWeights, copy_tokenizer, materialize
from edgereason.export.settings import Settings
from edgereason.tokenizer import Tokenizer

Report = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and their number."""


def write_merged(
    merged: Mapping[str, MergedWeights], staging: Path, settings: Settings, report: Callable[[str], Report]
) -> tuple[dict[str, frozenset[int]], dict[str, Any]]:
    """Write each stage's directory: its model, tokenizer and generation defaults.

    Args:
        merged: By stage.
        staging: The bundle's directory.
        settings: The format and its options.
        report: Gives for a stage what is called as work goes on.

    Returns:
        By stage the tokens that end its text, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """
    stop_ids, stored = {}, {}
    for stage, weights in merged.items():
        directory = staging / stage
        directory.mkdir()
        stop_ids[stage] = write_tokenizer(weights.config, weights.tokenizer, weights.base, directory)
        stored = write_model(weights, directory, settings, report(stage))
    return stop_ids, stored


def write_model(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    """Write a model's weights and configuration; returns for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """
    return _WRITERS[settings.format](merged, directory, settings, report)


def write_tokenizer(config: dict[str, Any], source: Path, base: Path, directory: Path) -> frozenset[int]:
    """Copy the tokenizer in `source`, and the generation defaults of the base; returns the tokens that end a text."""
    copy_tokenizer(source, directory)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", directory / "generation_config.json")
    return _stop_ids(config, directory)


def _write_native(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    from edgereason.export.native import write_native

    write_native(directory, merged.config, merged, settings.bits, progress=_step(report, _writing(settings)))
    return {"group_size": 32, "method": "rtn"} if settings.bits < 16 else {"type": "f16"}


def _write_gguf(merged: MergedWeights, directory: Path, settings: Settings, report: Report) -> dict[str, Any]:
    from edgereason.export.gguf import write_gguf

    assert settings.gguf_type is not None
    write_gguf(merged, directory / "model.gguf", settings.gguf_type, _step(report, f"writing {settings.gguf_type}"))
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
