"""A LoRA adapter as GGUF, which llama.cpp applies to its base during the forward pass.

The file has the keys and tensors that llama.cpp's `convert_lora_to_gguf.py` writes for a plain adapter. GGUF has one
alpha per adapter; where scales differ (rank-stabilized LoRA, patterns of rank or alpha), they are multiplied
into the second factors, so that llama.cpp computes what PEFT does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig

from edgereason.checkpoints.lora import Lora, LoraAdapter
from edgereason.errors import ExportError
from edgereason.export.gguf.families import GGUF_FAMILIES, Family, tensor_name, to_gguf_layout
from edgereason.files import new_file
from edgereason.kernels.packing import BFloat16

_MERGE = "Export with --layout merged."


def write_gguf_adapter(base: dict[str, Any], adapter: LoraAdapter, out_file: Path) -> None:
    """Write an adapter for a base that was written by `write_gguf`.

    Factors are stored in float16.

    Args:
        base: The base's config.json.
        adapter: As `edgereason.checkpoints.lora` reads it.
        out_file: The file to write; it appears when it is complete, or not at all.

    Raises:
        ExportError: llama.cpp has no place for what the adapter changes, a value does not fit float16, or the disk is
            full.
    """
    config = AutoConfig.for_model(base["model_type"]).from_dict(base)
    family = GGUF_FAMILIES[config.model_type]
    alpha = max(lora.scale * lora.a.shape[0] for lora in adapter.targets.values())
    tensors: dict[str, npt.NDArray[np.float16]] = {}
    for target, lora in adapter.targets.items():
        name = _tensor(target, family, config, adapter)
        first, second = _factors(lora, alpha)
        tensors[f"{name}.lora_a"] = _half(first, name, adapter)
        moved = to_gguf_layout(
            family, name, torch.from_numpy(second), config
        ).numpy()  # rows of the product are rows of B
        tensors[f"{name}.lora_b"] = _half(moved, name, adapter)
    try:
        with new_file(out_file) as partial:
            _write(partial, family, alpha, adapter, tensors)
    except OSError as error:
        raise ExportError(
            f"{out_file} could not be written: {error.strerror or error}.",
            "Free some space, or write to another disk.",
        ) from error


def _tensor(target: str, family: Family, config: Any, adapter: LoraAdapter) -> str:
    name = tensor_name(family, config.num_hidden_layers, f"{target}.weight")
    if name is None or (name == "output.weight" and config.tie_word_embeddings):
        raise ExportError(f"{adapter.path} changes {target}, which llama.cpp cannot adapt.", _MERGE)
    return name


def _factors(lora: Lora, alpha: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Both factors, such that `alpha / rank * b a` is what the adapter adds."""
    first, second = (
        factor.to_float32() if isinstance(factor, BFloat16) else factor.astype(np.float32)
        for factor in (lora.a, lora.b)
    )
    share = np.float32(lora.scale * first.shape[0] / alpha)
    return first, second if share == 1 else second * share


def _half(values: npt.NDArray[np.float32], name: str, adapter: LoraAdapter) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, dtype=np.float16)
    if not np.isfinite(half).all():
        raise ExportError(f"{adapter.path} has values for {name} that are too large for float16.", _MERGE)
    return half


def _write(
    out: Path, family: Family, alpha: float, adapter: LoraAdapter, tensors: dict[str, npt.NDArray[np.float16]]
) -> None:
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[family.arch])
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_name(adapter.path.name)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        if adapter.invocation:
            key, tokens = gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS, list(adapter.invocation)
            writer.add_key_value(key, tokens, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)
        for name, values in tensors.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
