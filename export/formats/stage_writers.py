"""One stage's model, written in the format that the settings name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgereason.errors import ExportError
from edgereason.export.inputs.materialize import materialize
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.inputs.tokenizer_files import copy_tokenizer, opened_tokenizer, write_generation_config
from edgereason.export.progress_callbacks import Progress, StepProgress
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.export.quantization.methods import describe_quantization, quantize_model
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.export.settings import Settings
from edgereason.export.staging import Staging
from edgereason.files import write_json
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer, listed_ids


def write_merged(
    merged: Mapping[str, MergedWeights],
    prompts: Mapping[str, Prompt],
    staging: Staging,
    settings: Settings,
    progress: Callable[[str], Progress],
) -> tuple[dict[str, frozenset[int]], dict[str, Any]]:
    """Write each stage's directory: its model, tokenizer and generation defaults.

    Args:
        merged: By stage.
        prompts: By stage, for calibration text.
        staging: The unfinished bundle; stages that it already has are not written again.
        settings: The format and its options.
        progress: Returns the callback for a stage.

    Returns:
        The stop tokens by stage, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """

    def write(stage: str) -> dict[str, Any]:
        weights, directory = merged[stage], staging.path / stage
        stop_ids = copy_stage_tokenizer(weights.config, weights.tokenizer, weights.base, directory)
        calibration = CalibrationText({stage: prompts[stage]}, settings.calibration_text)
        stored = write_model(weights, directory, staging.work(stage), settings, calibration, progress(stage))
        return {"stop_ids": sorted(stop_ids), "stored": stored}

    results = {stage: staging.once(stage, partial(write, stage)) for stage in merged}
    stop_ids = {stage: frozenset(result["stop_ids"]) for stage, result in results.items()}
    return stop_ids, next(iter(results.values()))["stored"]


def write_model(
    merged: MergedWeights,
    directory: Path,
    work: Path,
    settings: Settings,
    calibration: CalibrationText,
    progress: Progress,
) -> dict[str, Any]:
    """Write a model's weights and configuration; returns for the manifest how the weights are stored.

    Args:
        merged: The weights.
        directory: Where to write.
        work: A directory outside of the bundle, for work that an interrupted export resumes.
        settings: The format and its options.
        calibration: Calibration text of the model.
        progress: Called as work goes on.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """
    stored = _WRITERS[settings.format](merged, directory, work, settings, calibration, progress)
    if not (directory / "config.json").is_file():  # so that a bundle can be verified, and opened by optimum
        write_json(directory / "config.json", merged.config)
    return stored


def copy_stage_tokenizer(config: dict[str, Any], source: Path, base: Path, directory: Path) -> frozenset[int]:
    """Copy the tokenizer in `source`, and the generation defaults of the base; returns the stop tokens."""
    copy_tokenizer(source, directory)
    write_generation_config(base, source, directory)
    return _stop_ids(config, directory)


def _write_native(
    merged: MergedWeights,
    directory: Path,
    work: Path,
    settings: Settings,
    calibration: CalibrationText,
    progress: Progress,
) -> dict[str, Any]:
    from edgereason.export.formats.native_writer import native_bytes, write_native

    rounding = Rounding.of_settings(settings)
    file_size = partial(native_bytes, merged.config, merged, rounding)
    quantized = quantize_model(merged, calibration, work, settings, progress, file_size)
    write_native(directory, merged.config, merged, rounding, quantized, _step(progress, _writing(settings)))
    return describe_quantization(settings, quantized)


def _write_gptq(
    merged: MergedWeights,
    directory: Path,
    work: Path,
    settings: Settings,
    calibration: CalibrationText,
    progress: Progress,
) -> dict[str, Any]:
    from edgereason.export.formats.gptq_writer import write_gptq

    quantized = quantize_model(merged, calibration, work, settings, progress)
    step = _step(progress, _writing(settings))
    write_gptq(directory, merged, settings, Rounding.of_settings(settings), quantized, step)
    return describe_quantization(settings, quantized)


def _write_gguf(
    merged: MergedWeights,
    directory: Path,
    work: Path,
    settings: Settings,
    calibration: CalibrationText,
    progress: Progress,
) -> dict[str, Any]:
    from edgereason.export.gguf import measure_importance, write_gguf

    assert settings.gguf_type is not None
    importance = None
    if settings.measures_importance:
        sequences = calibration.sequences(Tokenizer(merged.tokenizer))
        importance = measure_importance(merged, sequences, _step(progress, "measuring importance"))
    step = _step(progress, f"writing {settings.gguf_type}")
    write_gguf(merged, directory / "model.gguf", settings.gguf_type, step, importance=importance)
    return {"type": settings.gguf_type, "imatrix": importance is not None}


def _write_onnx(
    merged: MergedWeights,
    directory: Path,
    work: Path,
    settings: Settings,
    calibration: CalibrationText,
    progress: Progress,
) -> dict[str, Any]:
    from edgereason.export.formats.onnx_writer import write_onnx

    assert settings.group_size is not None
    quantized = quantize_model(merged, calibration, work, settings, progress)
    stored = write_onnx(
        partial(_materialized, merged, work, progress),
        directory,
        settings.bits,
        _step(progress, _writing(settings)),
        block_size=settings.group_size,
        symmetric=settings.symmetric,
        quantized=quantized,
    )
    return stored if settings.method == "rtn" else {**describe_quantization(settings, quantized), **stored}


def _materialized(merged: MergedWeights, work: Path, progress: Progress) -> Path:
    """The merged model as a directory, for a tool that reads one; that of an interrupted export is kept."""
    directory, unfinished = work / "merged", work / "merged.partial"
    if not directory.is_dir():
        shutil.rmtree(unfinished, ignore_errors=True)
        materialize(merged, unfinished, _step(progress, "merging"))
        unfinished.rename(directory)
    return directory


_WRITERS: dict[str, Callable[[MergedWeights, Path, Path, Settings, CalibrationText, Progress], dict[str, Any]]] = {
    "native": _write_native,
    "gguf": _write_gguf,
    "onnx": _write_onnx,
    "gptq": _write_gptq,
}


def _writing(settings: Settings) -> str:
    return f"writing {settings.bits}-bit {settings.format}"


def _step(progress: Progress, name: str) -> StepProgress:
    return lambda done, total: progress(name, done, total)


def _stop_ids(config: dict[str, Any], directory: Path) -> frozenset[int]:
    """The stop tokens of the stage's configuration, tokenizer and generation defaults."""
    stops = opened_tokenizer(directory).stop_ids() | frozenset(listed_ids(config.get("eos_token_id")))
    if beyond := [id_ for id_ in stops if id_ >= config["vocab_size"]]:
        raise ExportError(
            f"The end token {beyond[0]} is beyond the model's vocabulary of {config['vocab_size']:,}.",
            'Correct "eos_token" in tokenizer_config.json, or "eos_token_id" in generation_config.json.',
        )
    return stops
