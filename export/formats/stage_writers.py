"""One stage's model, written in the format that was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgereason.export.inputs.merge import MergedWeights, copy_tokenizer, materialize
from edgereason.export.quantization.calibration import Calibration
from edgereason.export.quantization.methods import describe, quantize, rounding
from edgereason.export.settings import Settings
from edgereason.export.staging import Staging
from edgereason.files import write_json
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer

Report = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and their number."""


def write_merged(
    merged: Mapping[str, MergedWeights],
    prompts: Mapping[str, Prompt],
    staging: Staging,
    settings: Settings,
    report: Callable[[str], Report],
) -> tuple[dict[str, frozenset[int]], dict[str, Any]]:
    """Write each stage's directory: its model, tokenizer and generation defaults.

    Args:
        merged: By stage.
        prompts: By stage, for calibration text.
        staging: The bundle under way; stages that it has already are not written again.
        settings: The format and its options.
        report: Gives for a stage what is called as work goes on.

    Returns:
        By stage the tokens that end its text, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """

    def write(stage: str) -> dict[str, Any]:
        weights, directory = merged[stage], staging.path / stage
        stop_ids = write_tokenizer(weights.config, weights.tokenizer, weights.base, directory)
        calibration = Calibration({stage: prompts[stage]}, settings.calibration)
        stored = write_model(weights, directory, staging.work(stage), settings, calibration, report(stage))
        return {"stop_ids": sorted(stop_ids), "stored": stored}

    results = {stage: staging.once(stage, partial(write, stage)) for stage in merged}
    stop_ids = {stage: frozenset(result["stop_ids"]) for stage, result in results.items()}
    return stop_ids, next(iter(results.values()))["stored"]


def write_model(
    merged: MergedWeights, directory: Path, work: Path, settings: Settings, calibration: Calibration, report: Report
) -> dict[str, Any]:
    """Write a model's weights and configuration; returns for the manifest how the weights are stored.

    Args:
        merged: The weights.
        directory: Where to write.
        work: A directory for what an interrupted export may find again; no part of the bundle.
        settings: The format and its options.
        calibration: Text that shows what the model reads and writes.
        report: Called as work goes on.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """
    stored = _WRITERS[settings.format](merged, directory, work, settings, calibration, report)
    if not (directory / "config.json").is_file():  # so that a bundle can be verified, and opened by optimum
        write_json(directory / "config.json", merged.config)
    return stored


def write_tokenizer(config: dict[str, Any], source: Path, base: Path, directory: Path) -> frozenset[int]:
    """Copy the tokenizer in `source`, and the generation defaults of the base; returns the tokens that end a text."""
    copy_tokenizer(source, directory)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", directory / "generation_config.json")
    return _stop_ids(config, directory)


def _write_native(
    merged: MergedWeights, directory: Path, work: Path, settings: Settings, calibration: Calibration, report: Report
) -> dict[str, Any]:
    from edgereason.export.formats.native_writer import write_native

    quantized = quantize(merged, calibration, work, settings, report)
    progress = _step(report, _writing(settings))
    write_native(directory, merged.config, merged, rounding(settings), quantized, progress)
    return describe(settings, quantized)


def _write_gptq(
    merged: MergedWeights, directory: Path, work: Path, settings: Settings, calibration: Calibration, report: Report
) -> dict[str, Any]:
    from edgereason.export.formats.gptq_writer import write_gptq

    quantized = quantize(merged, calibration, work, settings, report)
    write_gptq(directory, merged, settings, rounding(settings), quantized, _step(report, _writing(settings)))
    return describe(settings, quantized)


def _write_gguf(
    merged: MergedWeights, directory: Path, work: Path, settings: Settings, calibration: Calibration, report: Report
) -> dict[str, Any]:
    from edgereason.export.gguf import measure_importance, write_gguf

    assert settings.gguf_type is not None
    importance = None
    if settings.measures_importance:
        sequences = calibration.sequences(Tokenizer(merged.tokenizer))
        importance = measure_importance(merged, sequences, _step(report, "measuring importance"))
    progress = _step(report, f"writing {settings.gguf_type}")
    write_gguf(merged, directory / "model.gguf", settings.gguf_type, progress, importance=importance)
    return {"type": settings.gguf_type, "imatrix": importance is not None}


def _write_onnx(
    merged: MergedWeights, directory: Path, work: Path, settings: Settings, calibration: Calibration, report: Report
) -> dict[str, Any]:
    from edgereason.export.formats.onnx_writer import write_onnx

    assert settings.group_size is not None
    quantized = quantize(merged, calibration, work, settings, report)
    stored = write_onnx(
        partial(_materialized, merged, work, report),
        directory,
        settings.bits,
        _step(report, _writing(settings)),
        block_size=settings.group_size,
        symmetric=settings.symmetric,
        quantized=quantized,
    )
    return stored if settings.method == "rtn" else {**describe(settings, quantized), **stored}


def _materialized(merged: MergedWeights, work: Path, report: Report) -> Path:
    """The merged model as a directory, for a tool that reads one; written unless an earlier try has finished it."""
    directory, unfinished = work / "merged", work / "merged.partial"
    if not directory.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        materialize(merged, unfinished, _step(report, "merging"))
        unfinished.rename(directory)
    return directory


_WRITERS: dict[str, Callable[[MergedWeights, Path, Path, Settings, Calibration, Report], dict[str, Any]]] = {
    "native": _write_native,
    "gguf": _write_gguf,
    "onnx": _write_onnx,
    "gptq": _write_gptq,
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
