"""Write a model as GGUF: float16 through the `gguf` package, then smaller types through llama.cpp's own quantizer.

The float16 file has the keys and tensors that llama.cpp's converter writes, bit for bit (tests/export/test_gguf.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import AutoConfig

from edgereason.errors import ExportError
from edgereason.export.gguf import rope
from edgereason.export.gguf.families import FAMILIES, Family, stored, tensor_name
from edgereason.export.gguf.quantize import GGUF_TYPES, Importance, quantize
from edgereason.export.gguf.tokenizer import model_name, write_tokenizer
from edgereason.export.inputs import open_base
from edgereason.export.merge import MergedWeights, merge
from edgereason.files import new_file

Progress = Callable[[int, int], None]
"""Called with the tensors that are done and the tensors that there are."""

_CURE = "Export with --format native, which computes the configuration as it is."


def write_gguf(
    source: Path | MergedWeights,
    out_file: Path,
    gguf_type: str = "Q4_0",
    progress: Progress | None = None,
    name: str | None = None,
    importance: Importance | None = None,
) -> None:
    """Write a model as one GGUF file.

    The file appears when it is complete, or not at all. Quantizing needs room for the float16 file beside it.

    Args:
        source: Merged weights, or a Hugging Face directory: config.json, *.safetensors and the tokenizer's files.
        out_file: The file to write; replaced where it exists.
        gguf_type: A name from `GGUF_TYPES`.
        progress: Called as tensors are written.
        name: The model's name inside the file; the family's name when None.
        importance: What `measure_importance` finds, for types of few bits.

    Raises:
        ExportError: the family or tokenizer has no GGUF form, a weight does not fit float16, the quantizer fails, or
            the disk is full.
    """
    if gguf_type not in GGUF_TYPES:
        raise ExportError(f"There is no GGUF type {gguf_type!r}.", f"Choose one of {', '.join(GGUF_TYPES)}.")
    steps = 1 if gguf_type == "F16" else 2
    model = _Model.open(merge(open_base(source, "gguf")) if isinstance(source, Path) else source)
    total = steps * len(model.tensors)
    report = progress or (lambda done, total: None)
    try:
        with new_file(out_file) as partial:
            half = partial if gguf_type == "F16" else partial.with_suffix(".f16")
            try:
                _write_f16(model, half, name or model.config.model_type, lambda done: report(done, total))
                if gguf_type != "F16":
                    count = len(model.tensors)
                    quantize(half, partial, gguf_type, importance, lambda done: report(count + done, total))
            finally:
                if half != partial:
                    half.unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(
            f"{out_file} could not be written: {error.strerror or error}.",
            "Free some space, or write to another disk.",
        ) from error
    report(total, total)


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the output: what it is called there and where it comes from."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def dtype(self) -> torch.dtype:
        # llama.cpp's kernels take biases and norms in float32 only.
        return torch.float32 if len(self.shape) == 1 or self.name.endswith("_norm.weight") else torch.float16


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
    """The family of a configuration that llama.cpp computes as the configuration says.

    Raises:
        ExportError: it does not.
    """
    family = FAMILIES[config.model_type]
    for difference in family.differences(config):
        raise ExportError(f"{where} would not run as it was trained: {difference}.", _CURE)
    if window := family.unseen_window(config):
        warnings.warn(
            f"{where} sees {window} tokens at a time, which llama.cpp does not know: beyond that its text may differ.",
            stacklevel=2,
        )
    return family


def _tensors(weights: MergedWeights, config: Any, family: Family) -> Iterator[_Tensor]:
    for source, shape in weights.shapes.items():
        name = tensor_name(family, config.num_hidden_layers, source)
        if name is None:
            raise ExportError(
                f"{weights.base} holds the tensor {source}, which llama.cpp lacks in {config.model_type} models.", _CURE
            )

        def load(source: str = source, name: str = name) -> Tensor:
            return stored(family, name, torch.from_numpy(weights[source]), config)

        yield _Tensor(name, shape, load)


def _write_f16(model: _Model, out: Path, name: str, report: Callable[[int], None]) -> None:
    """Write the float16 file, one tensor in memory at a time."""
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[model.family.arch])
    try:
        for tensor in model.tensors:
            size = tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
            writer.add_tensor_info(tensor.name, tensor.shape, torch.empty(0, dtype=tensor.dtype).numpy().dtype, size)
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(model_name(name, model.weights.tokenizer))
        writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        model.family.write_keys(writer, model.config)
        write_tokenizer(writer, model.weights.tokenizer, model.weights.config)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(model.tensors, start=1):
            writer.write_tensor_data(_converted(tensor, model.weights.base).numpy())
            report(done)
    finally:
        writer.close()


def _converted(tensor: _Tensor, model_dir: Path) -> Tensor:
    data = tensor.load().to(torch.float32).to(tensor.dtype).contiguous()
    if not torch.isfinite(data).all():
        raise ExportError(
            f"{model_dir} has values in {tensor.name} that are not finite or too large for float16.",
            "Repair the checkpoint, or export with --format native or --format onnx.",
        )
    return data
