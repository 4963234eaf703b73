"""A model as AutoGPTQ and GPTQModel store it, which transformers and vLLM read as well.

`edgereason.checkpoints.gptq_format` describes its tensors. Weights that are not quantized are float16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.errors import ExportError
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.progress_callbacks import StepProgress
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.export.safetensors_writer import write_safetensors
from edgereason.export.settings import ONE_GROUP, Settings
from edgereason.files import write_json
from edgereason.kernels.packing import PackedWeight

Array = npt.NDArray[Any]
_WORD = 32


def write_gptq(
    directory: Path,
    merged: MergedWeights,
    settings: Settings,
    rounding: Rounding,
    quantized: Mapping[str, PackedWeight],
    progress: StepProgress,
) -> None:
    """Write model.safetensors, config.json and quantize_config.json: `gptq` (v1), or `gptq_v2` where not symmetric.

    Args:
        directory: Where to write; exists.
        merged: The model in full precision.
        settings: The options that `quantize_config.json` names.
        rounding: For the linear layers that are not in `quantized`.
        quantized: Linear layers by their names without `.weight`.
        progress: Called after each tensor.

    Raises:
        ExportError: a layer's sizes do not fit into whole words, a weight is beyond float16, or the disk is full.
    """
    linear = [name for name, shape in merged.shapes.items() if _is_linear(name, shape)]
    specs: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {}
    for name, shape in merged.shapes.items():
        if name in linear:
            stem = name.removesuffix(".weight")
            specs.update(_specs(stem, shape, rounding))
        else:
            specs[name] = (np.float16, shape)

    def tensors() -> Iterator[tuple[str, Array]]:
        for done, name in enumerate(merged.shapes, start=1):
            stem = name.removesuffix(".weight")
            if name not in linear:
                yield name, _to_half(merged[name], name)
            else:
                weight = quantized.get(stem) or rounding.quantize(merged[name], name)
                yield from _tensors(stem, QuantizedLinear.from_packed(weight))
            progress(done, len(merged.shapes))

    values = _quantization_config(settings)
    config = {key: value for key, value in merged.config.items() if key not in ("dtype", "torch_dtype")}
    try:
        write_safetensors(directory / "model.safetensors", specs, tensors(), {"format": "pt"})
        write_json(directory / "quantize_config.json", values)
        write_json(directory / "config.json", {**config, "dtype": "float16", "quantization_config": values})
    except OSError as error:
        raise ExportError(f"{directory} cannot be written: {error.strerror}.", "Is there space left?") from error


def _quantization_config(settings: Settings) -> dict[str, Any]:
    gptq = settings.method == "gptq"
    return {
        "bits": settings.bits,
        "group_size": settings.group_size,
        "sym": settings.symmetric,
        # To a reader it says whether the members of groups lie apart, which they do not in static groups.
        "desc_act": gptq and settings.act_order and not settings.static_groups and settings.group_size != ONE_GROUP,
        "static_groups": settings.static_groups,
        "damp_percent": settings.dampening,
        "true_sequential": True,
        "lm_head": False,
        "quant_method": "gptq",
        # Readers of v1 differ where a zero point is 0, and GPTQModel takes it from others with symmetric weights alone.
        "checkpoint_format": "gptq" if settings.symmetric else "gptq_v2",
        "pack_dtype": "int32",
        "meta": {"quantizer": ["edgereason"]},
    }


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("model.layers.") and len(shape) == 2


def _specs(
    stem: str, shape: tuple[int, ...], rounding: Rounding
) -> Iterator[tuple[str, tuple[npt.DTypeLike, tuple[int, ...]]]]:
    rows, columns = shape
    per_word = _WORD // rounding.bits
    if rows % per_word or columns % _WORD:
        raise ExportError(
            f"{stem} is {list(shape)}: GPTQ checkpoints need whole words of weights.", "Use --format native."
        )
    groups = 1 if rounding.group_size is None else -(-columns // rounding.group_size)
    yield f"{stem}.qweight", (np.int32, (columns // per_word, rows))
    yield f"{stem}.qzeros", (np.int32, (groups, rows // per_word))
    yield f"{stem}.scales", (np.float16, (groups, rows))
    yield f"{stem}.g_idx", (np.int32, (columns,))


def _tensors(stem: str, weight: QuantizedLinear) -> Iterator[tuple[str, Array]]:
    bits = weight.bits
    zeros = _words(weight.zero_points.T, bits).view(np.uint32)
    if weight.zeros is None:  # symmetric, which is stored as v1: one less in every value
        zeros = zeros - np.uint32(0x11111111 if bits == 4 else 0x01010101)
    yield f"{stem}.qweight", np.ascontiguousarray(_words(weight.q, bits).T)
    yield f"{stem}.qzeros", np.ascontiguousarray(zeros.view(np.int32))
    yield f"{stem}.scales", np.ascontiguousarray(weight.scales.T)
    yield f"{stem}.g_idx", weight.g_idx


def _words(values: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """uint8 `[A, B]` -> int32 `[A, B * bits / 32]`, the first value of a word lowest."""
    octets = values if bits == 8 else values[:, 0::2] | values[:, 1::2] << 4
    return np.ascontiguousarray(octets).view("<i4").astype(np.int32, copy=False)


def _to_half(tensor: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(f"{name} has values beyond float16.", "Use --format native.")
    return half
