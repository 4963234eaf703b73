"""Write a model as GGUF through the `gguf` package, each tensor merged, quantized and written before the next.

A float16 file has the keys and tensors that llama.cpp's converter writes, bit for bit (`test_gguf.py`), and the token
that ends an assistant's turn where the chat template has another one than the end of a text; a file of a
smaller type is, byte for byte, what llama.cpp's quantizer writes (`test_gguf_types.py`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import AutoConfig

from edgereason.errors import EdgeReasonWarning, ExportError
from edgereason.export.gguf import rope_conversion as rope
from edgereason.export.gguf.families import GGUF_FAMILIES, Family, tensor_name, to_gguf_layout
from edgereason.export.gguf.ggml_types import GGML_FILE_TYPES, Importance, choose_types, quantize_rows
from edgereason.export.gguf.tokenizer_metadata import model_name, write_tokenizer_metadata
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.prefetch import prefetch
from edgereason.export.progress_callbacks import StepProgress, silent
from edgereason.files import new_file
from edgereason.kernels.packing import BFloat16

_DTYPES = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
_CURE = "Export with --format native, which computes the configuration as it is."


def write_gguf(
    source: Path | MergedWeights,
    out_file: Path,
    gguf_type: str = "Q4_0",
    progress: StepProgress = silent,
    name: str | None = None,
    importance: Importance | None = None,
) -> None:
    """Write a model as one GGUF file.

    The file appears when it is complete, or not at all.

    Args:
        source: Merged weights, or a Hugging Face directory: config.json, *.safetensors and the tokenizer's files.
        out_file: The file to write; replaced where it exists.
        gguf_type: A name from `GGML_FILE_TYPES`.
        progress: Called after each tensor.
        name: The model's name inside the file; the family's name when None.
        importance: The result of `measure_importance`, for types of few bits.

    Raises:
        ExportError: the family or tokenizer has no GGUF form, a weight does not fit float16, the quantizer fails, or
            the disk is full.
    """
    if gguf_type not in GGML_FILE_TYPES:
        raise ExportError(f"There is no GGUF type {gguf_type!r}.", f"Choose one of {', '.join(GGML_FILE_TYPES)}.")
    model = _Model.open(merge(open_base(source)) if isinstance(source, Path) else source)
    try:
        with new_file(out_file) as partial:
            planned = [(tensor, tensor.kind) for tensor in model.tensors]
            if gguf_type != "F16":
                planned = _plan(model, partial.with_suffix(".sketch"), gguf_type, importance)
            _write(model, partial, name or model.config.model_type, gguf_type, planned, importance or {}, progress)
    except OSError as error:
        raise ExportError(
            f"{out_file} could not be written: {error.strerror or error}.",
            "Free some space, or write to another disk.",
        ) from error


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the output: what it is called there and where it comes from."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def kind(self) -> GGMLQuantizationType:
        """The type in a float16 file: llama.cpp's kernels take biases and norms in float32 only."""
        whole = len(self.shape) == 1 or self.name.endswith("_norm.weight")
        return GGMLQuantizationType.F32 if whole else GGMLQuantizationType.F16


_Planned = tuple[_Tensor, GGMLQuantizationType]
"""A tensor and the type in which it will be written."""


@dataclass(frozen=True)
class _Model:
    """Merged weights under their GGUF names: each is computed when it is written."""

    weights: MergedWeights
    config: Any
    family: Family
    tensors: list[_Tensor]

    @classmethod
    def open(cls, weights: MergedWeights) -> _Model:
        config = AutoConfig.for_model(weights.config["model_type"]).from_dict(weights.config)
        family = open_family(config, weights.base)
        extra = [
            _Tensor(name, tuple(tensor.shape), lambda tensor=tensor: tensor)  # type: ignore[misc]
            for name, tensor in rope.extra_tensors(config).items()
        ]
        return cls(weights, config, family, extra + list(_tensors(weights, config, family)))


def open_family(config: Any, where: Path) -> Family:
    """The family of a configuration, if llama.cpp computes it correctly.

    Raises:
        ExportError: it does not.
    """
    family = GGUF_FAMILIES.get(config.model_type)
    if family is None:
        raise ExportError(
            f"{where} names the architecture {config.model_type!r}, which GGUF export does not support.", _CURE
        )
    for difference in family.differences(config):
        raise ExportError(f"{where} would not run as it was trained: {difference}.", _CURE)
    if window := family.unseen_window(config):
        warnings.warn(
            f"{where} has a sliding window of {window} tokens, which llama.cpp lacks: longer texts may differ.",
            EdgeReasonWarning,
            stacklevel=2,
        )
    return family


def _tensors(weights: MergedWeights, config: Any, family: Family) -> Iterator[_Tensor]:
    for source, shape in weights.shapes.items():
        name = tensor_name(family, config.num_hidden_layers, source)
        if name is None:
            raise ExportError(
                f"{weights.base} holds the tensor {source}, which llama.cpp lacks in {config.model_type} models.",
                _CURE,
            )

        def load(source: str = source, name: str = name) -> Tensor:
            return to_gguf_layout(family, name, _read(weights, source), config)

        yield _Tensor(name, shape, load)


def _read(weights: MergedWeights, name: str) -> Tensor:
    """A tensor in float32, or a matrix that merging leaves alone as the checkpoint has it."""
    found = weights.as_stored(name) if len(weights.shapes[name]) == 2 else None
    if found is None:
        return torch.from_numpy(weights[name])
    return torch.from_numpy(found.bits).view(torch.bfloat16) if isinstance(found, BFloat16) else torch.from_numpy(found)


def _plan(model: _Model, sketch: Path, gguf_type: str, importance: Importance | None) -> list[_Planned]:
    """The types of all tensors, in the order of the quantizer, which reads a float16 file without values."""
    writer = gguf.GGUFWriter(sketch, gguf.MODEL_ARCH_NAMES[model.family.arch])
    try:
        for tensor in model.tensors:
            _add(writer, tensor, tensor.kind)
        model.family.write_keys(writer, model.config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        size = sum(gguf.GGUFWriter.ggml_pad(_bytes(tensor, tensor.kind), 32) for tensor in model.tensors)
        with sketch.open("r+b") as file:  # a hole, which takes no room
            file.truncate(gguf.GGUFWriter.ggml_pad(sketch.stat().st_size, 32) + size)
        chosen = choose_types(sketch, gguf_type, importance)
    finally:
        writer.close()
        sketch.unlink(missing_ok=True)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    if chosen.keys() != tensors.keys():
        raise ExportError(
            "llama.cpp's quantizer has skipped tensors.", "Report this with the versions that edgereason doctor shows."
        )
    return [(tensors[name], kind) for name, kind in chosen.items()]


def _add(writer: gguf.GGUFWriter, tensor: _Tensor, kind: GGMLQuantizationType) -> None:
    shape = gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind)
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), _bytes(tensor, kind), raw_dtype=kind)


def _bytes(tensor: _Tensor, kind: GGMLQuantizationType) -> int:
    return math.prod(gguf.quants.quant_shape_to_byte_shape(tensor.shape, kind))


def _write(
    model: _Model,
    out: Path,
    name: str,
    gguf_type: str,
    planned: list[_Planned],
    importance: Importance,
    progress: StepProgress,
) -> None:
    """Write the file, one tensor in memory at a time and the next one on its way."""
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[model.family.arch])
    try:
        for tensor, kind in planned:
            _add(writer, tensor, kind)
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(model_name(name, model.weights.tokenizer))
        writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
        if gguf_type == "F16":  # where the converter says it; the quantizer says it last
            _add_file_type(writer, gguf_type)
        model.family.write_keys(writer, model.config)
        write_tokenizer_metadata(writer, model.weights.tokenizer, model.weights.config)
        if gguf_type != "F16":
            _add_file_type(writer, gguf_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with (
            prefetch((tensor, kind, tensor.load()) for tensor, kind in planned) as loaded,
            prefetch(_converted(*each, importance, model.weights.base) for each in loaded) as arrays,
        ):
            for done, array in enumerate(arrays, start=1):
                writer.write_tensor_data(array)
                progress(done, len(planned))
    finally:
        writer.close()


def _add_file_type(writer: gguf.GGUFWriter, gguf_type: str) -> None:
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(GGML_FILE_TYPES[gguf_type])


def _converted(
    tensor: _Tensor, kind: GGMLQuantizationType, data: Tensor, importance: Importance, base: Path
) -> npt.NDArray[Any]:
    """A tensor's bytes in the file, as numpy has them."""
    try:
        if kind not in _DTYPES:
            return quantize_rows(data, kind, importance.get(tensor.name))
        plain = data.to(torch.float32).to(_DTYPES[kind]).contiguous()
        if plain.numel() and not all(math.isfinite(bound) for bound in plain.aminmax()):  # isfinite takes far longer
            raise ValueError
    except ValueError as error:
        raise ExportError(
            f"{base} has values in {tensor.name} that are not finite or too large for float16.",
            "Repair the checkpoint, or export with --format native or --format onnx.",
        ) from error
    array: npt.NDArray[Any] = plain.numpy()
    return array
