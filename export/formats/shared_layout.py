"""The layout `shared`: one base and an adapter per stage, stored in 16 bits and applied row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgereason.bundle import BASE
from edgereason.checkpoints.adapter_files import PEFT_PREFIX, float_array
from edgereason.checkpoints.lora import LoraAdapter, plain_lora
from edgereason.checkpoints.safetensors_reader import MappedTensor
from edgereason.checkpoints.weights import FloatWeight
from edgereason.errors import ExportError
from edgereason.export.formats.stage_writers import copy_stage_tokenizer, write_model
from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.base_model import Base
from edgereason.export.inputs.export_errors import as_export_errors
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.tokenizer_files import find_tokenizer
from edgereason.export.progress_callbacks import Progress
from edgereason.export.quantization.calibration import CalibrationText
from edgereason.export.quantization.round_to_nearest import EMBEDDINGS_AND_HEAD
from edgereason.export.safetensors_writer import TensorSpec, write_safetensors
from edgereason.export.settings import Settings
from edgereason.export.staging import Staging
from edgereason.files import write_json
from edgereason.kernels.packing import BFloat16
from edgereason.text.prompts import prompt_text
from edgereason.text.tokenizer import Tokenizer

_MERGED = "Export it with --layout merged."


def check_shared(base: Base, adapters: Mapping[str, Adapter], format: str = "native") -> None:
    """Make sure that adapters can be applied row by row to one base, and that their prompts invoke activated adapters.

    Raises:
        ExportError: one cannot; the message says why, and what to do.
    """
    for adapter in adapters.values():
        with as_export_errors():
            lora = plain_lora(adapter.files)
        for target in lora.targets:
            if target in EMBEDDINGS_AND_HEAD:
                raise ExportError(f"{adapter.path} changes {target}, which both stages share.", _MERGED)
        merge(base, adapter)  # it has all that its configuration names
        if lora.invocation and format != "native":
            raise ExportError(
                f"{adapter.path} is an activated adapter, which the format {format} cannot apply to a part of a text.",
                "Export with --format native.",
            )
        _check_invoked(lora, adapter, Tokenizer(find_tokenizer(adapter.path, base.path)))


def _check_invoked(lora: LoraAdapter, adapter: Adapter, tokenizer: Tokenizer) -> None:
    for guidance in ("Steps: add.", None):
        prompt = tokenizer.encode(prompt_text(tokenizer, adapter.prompt, "How many?", guidance))
        if lora.invocation and lora.activation(prompt) == len(prompt):
            raise ExportError(
                f"{adapter.path} is activated by the tokens {list(lora.invocation)}, which its prompt does not have.",
                "Put the text that invokes it at the end of the user's turn in its prompt.json.",
            )


def write_shared(
    base: Base,
    adapters: Mapping[str, Adapter],
    staging: Staging,
    settings: Settings,
    progress: Callable[[str], Progress],
) -> tuple[dict[str, frozenset[int]], dict[str, Any]]:
    """Write the base and both stages' adapters.

    Args:
        base: Written without any adapter.
        adapters: By stage.
        staging: The unfinished bundle; what it already has is not written again.
        settings: The format and its options.
        progress: Returns the callback for `base` or a stage.

    Returns:
        The stop tokens by stage, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """

    def write_base() -> dict[str, Any]:
        calibration = CalibrationText(
            {stage: adapter.prompt for stage, adapter in adapters.items()}, settings.calibration_text
        )
        directory, work = staging.path / BASE, staging.work(BASE)
        return write_model(merge(base), directory, work, settings, calibration, progress(BASE))

    def write_stage(stage: str) -> dict[str, Any]:
        directory, source = staging.path / stage, find_tokenizer(adapters[stage].path, base.path)
        stop_ids = copy_stage_tokenizer(base.config, source, base.path, directory)
        if settings.format == "gguf":
            from edgereason.export.gguf.adapter_writer import write_gguf_adapter  # its library may be missing

            write_gguf_adapter(base.config, plain_lora(adapters[stage].files), directory / "adapter.gguf")
        else:
            _write_adapter(adapters[stage], base, directory)
        progress(stage)("writing the adapter", 1, 1)
        return {"stop_ids": sorted(stop_ids)}

    stored = staging.once(BASE, write_base)
    results = {stage: staging.once(stage, partial(write_stage, stage)) for stage in adapters}
    stop_ids = {stage: frozenset(result["stop_ids"]) for stage, result in results.items()}
    return stop_ids, {**stored, "adapters": "16 bits"}


def _write_adapter(adapter: Adapter, base: Base, directory: Path) -> None:
    """Write an adapter as PEFT does, with factors in 16 bits and without the path of its base."""
    config = {**adapter.config, "base_model_name_or_path": base.name}
    stored = {PEFT_PREFIX + name: _in_16_bits(tensor) for name, tensor in adapter.files.tensors.items()}
    specs: dict[str, TensorSpec] = {
        name: (BFloat16 if isinstance(array, BFloat16) else array.dtype, array.shape) for name, array in stored.items()
    }
    try:
        write_json(directory / "adapter_config.json", config)
        write_safetensors(directory / "adapter_model.safetensors", specs, stored.items(), {"format": "pt"})
    except OSError as error:
        raise ExportError(f"{directory} cannot be written: {error.strerror}.", "Is there space left?") from error


def _in_16_bits(tensor: MappedTensor) -> FloatWeight:
    """A factor as float16, or as bfloat16 where it has values beyond float16; factors of 16 bits as they are."""
    array = float_array(tensor)
    if isinstance(array, BFloat16) or array.dtype != np.float32:
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.isfinite(half).all():
        return half
    return BFloat16(torch.from_numpy(array.copy()).bfloat16().view(torch.uint16).numpy())
