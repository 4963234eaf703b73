"""The layout `shared`: one base, and an adapter for each stage, kept in 16 bits and applied row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from edgereason.bundle import BASE
from edgereason.checkpoints.lora import LoraAdapter, read_adapter
from edgereason.errors import BundleError, ExportError
from edgereason.export.formats.stage_writers import Report, write_model, write_tokenizer
from edgereason.export.inputs.base_model import Adapter, Base
from edgereason.export.inputs.merge import find_tokenizer, merge
from edgereason.export.quantization.calibration import Calibration
from edgereason.export.settings import Settings
from edgereason.export.staging import Staging
from edgereason.files import write_json
from edgereason.text.tokenizer import Tokenizer

_TABLES = ("model.embed_tokens", "lm_head")
_MERGED = "Export it with --layout merged."


def check_shared(base: Base, adapters: Mapping[str, Adapter], format: str = "native") -> None:
    """Make sure that adapters can be applied row by row to one base, and that their prompts invoke activated ones.

    Raises:
        ExportError: one cannot; the message says why, and what to do.
    """
    for stage, adapter in adapters.items():
        if adapter.blend or adapter.extrapolation:
            raise ExportError(
                f"The {stage} model is made of several adapters, and the shared layout keeps one.", _MERGED
            )
        try:
            read = read_adapter(adapter.path)
        except BundleError as error:
            raise ExportError(error.what, error.cure) from error
        for target in read.targets:
            if target in _TABLES:
                raise ExportError(f"{adapter.path} changes {target}, which both stages share.", _MERGED)
        if read.invocation and format != "native":
            raise ExportError(
                f"{adapter.path} is an activated adapter, which the format {format} cannot apply to a part of a text.",
                "Export with --format native.",
            )
        _check_invoked(read, adapter, Tokenizer(find_tokenizer(adapter.path, base.path)))


def _check_invoked(read: LoraAdapter, adapter: Adapter, tokenizer: Tokenizer) -> None:
    for guidance in ("Steps: add.", None):
        prompt = tokenizer.encode(tokenizer.render(adapter.prompt.messages("How many?", guidance)))
        if read.invocation and read.activation(prompt) == len(prompt):
            raise ExportError(
                f"{adapter.path} applies from its invocation tokens {list(read.invocation)} on, "
                f"and its prompt never has them.",
                "Put the text that invokes it at the end of the user's turn in its prompt.json.",
            )


def write_shared(
    base: Base, adapters: Mapping[str, Adapter], staging: Staging, settings: Settings, report: Callable[[str], Report]
) -> tuple[dict[str, frozenset[int]], dict[str, Any]]:
    """Write the base and both stages' adapters.

    Args:
        base: Written without any adapter.
        adapters: By stage.
        staging: The bundle under way; what it has already is not written again.
        settings: The format and its options.
        report: Gives, for `base` or a stage, what is called as work goes on.

    Returns:
        By stage the tokens that end its text, and for the manifest how the weights are stored.

    Raises:
        ExportError: the weights cannot be written so, or the disk is full.
    """

    def write_base() -> dict[str, Any]:
        calibration = Calibration({stage: adapter.prompt for stage, adapter in adapters.items()}, settings.calibration)
        directory, work = staging.path / BASE, staging.work(BASE)
        return write_model(merge(base), directory, work, settings, calibration, report(BASE))

    def write_stage(stage: str) -> dict[str, Any]:
        directory, source = staging.path / stage, find_tokenizer(adapters[stage].path, base.path)
        stop_ids = write_tokenizer(base.config, source, base.path, directory)
        if settings.format == "gguf":
            from edgereason.export.gguf.adapter import write_gguf_adapter  # its library may be missing

            write_gguf_adapter(base.config, read_adapter(adapters[stage].path), directory / "adapter.gguf")
        else:
            _write_adapter(adapters[stage], base, directory)
        report(stage)("writing the adapter", 1, 1)
        return {"stop_ids": sorted(stop_ids)}

    stored = staging.once(BASE, write_base)
    results = {stage: staging.once(stage, partial(write_stage, stage)) for stage in adapters}
    stop_ids = {stage: frozenset(result["stop_ids"]) for stage, result in results.items()}
    return stop_ids, {**stored, "adapters": "16 bits"}


def _write_adapter(adapter: Adapter, base: Base, directory: Path) -> None:
    """Write an adapter as PEFT does, its factors in 16 bits, and without the path that its base had."""
    config = {**adapter.config, "base_model_name_or_path": base.name}
    factors = {name: _narrow(tensor) for name, tensor in load_file(adapter.weights).items()}
    try:
        write_json(directory / "adapter_config.json", config)
        save_file(factors, directory / "adapter_model.safetensors", {"format": "pt"})
    except OSError as error:
        raise ExportError(f"{directory} cannot be written: {error.strerror}.", "Is there space left?") from error


def _narrow(factor: torch.Tensor) -> torch.Tensor:
    """In float16, or where it holds what that cannot, in bfloat16."""
    if factor.dtype != torch.float32:
        return factor
    half = factor.half()
    return half if bool(torch.isfinite(half).all()) else factor.bfloat16()
