"""The base model of an export: a Hugging Face directory or a model from the hub, opened and checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edgereason import models
from edgereason.errors import EdgeReasonWarning, ExportError, UsageError
from edgereason.export.inputs.dequantize import QuantizedBase, find_quantization
from edgereason.export.inputs.export_errors import as_export_errors
from edgereason.export.inputs.hub import download
from edgereason.export.inputs.merged_weights import Float
from edgereason.files import read_json
from edgereason.kernels.packing import BFloat16

if TYPE_CHECKING:
    import torch

EXPORTABLE_FAMILIES = tuple(sorted(set(models.FAMILIES) - {"gemma3"}))
"""Values of `model_type` that can be exported. Of models that see images as well, only the text part could be."""

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_TIED_BY_DEFAULT = ("gemma2", "gemma3_text")
"""Values of `model_type` whose LM head is tied where config.json does not say."""
_ROWS_COMPARED = 4096


@dataclass(frozen=True)
class Base:
    """A base model: a Hugging Face directory with safetensors weights."""

    path: Path
    name: str
    """The hub id, or the directory's name."""
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    """The shape of every tensor, by its name in the checkpoint."""
    files: dict[str, Path]
    """The file of each tensor."""
    revision: str | None = None
    """The commit that was downloaded; None for a directory."""
    quantized: QuantizedBase | None = None
    """How its weights are quantized; they are read as float32 all the same. None where they are not."""
    tied_in_name_only: bool = False
    """Whether config.json says that the LM head is tied to the embeddings, and the files have other numbers for it.
    Those are the model, as in transformers, and `config` says so."""
    stored_as: Mapping[str, str] = field(default_factory=dict)
    """The names in the files of weights that have another name in the model."""
    gguf: Path | None = None
    """The GGUF file that `path` was converted from; None for a base that was none."""

    @property
    def weights(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self.files.values())))

    @property
    def tied(self) -> bool:
        """Whether the LM head is the embeddings."""
        return bool(self.config.get("tie_word_embeddings", self.config["model_type"] in _TIED_BY_DEFAULT))

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor in float32, by its name in the checkpoint; not to be changed in place.

        Raises:
            ExportError: the checkpoint has none of this name.
        """
        if name not in self.shapes:
            raise ExportError(f"{self.path} has no {name}.", "Give a complete model, saved by save_pretrained().")
        name = self.stored_as.get(name, name)
        if self.quantized:
            return self.quantized.read(name, self._stored)
        return self._stored(name).astype(np.float32, copy=False)

    def mapped(self, name: str) -> Float | None:
        """A tensor as it is stored, mapped from disk; None where it is quantized, or not of 16 or 32 bits."""
        import torch

        if self.quantized or name not in self.shapes:
            return None
        tensor = _open_tensor(self.files[name], self.stored_as.get(name, name))
        if tensor.dtype == torch.bfloat16:
            return BFloat16(tensor.view(torch.uint16).numpy())
        return tensor.numpy() if tensor.dtype in (torch.float16, torch.float32) else None

    def _stored(self, name: str) -> npt.NDArray[Any]:
        return _read_stored(self.files[name], name)


def _open_tensor(file: Path, name: str) -> torch.Tensor:
    """A tensor in its own type, mapped from disk: reading it is what takes time."""
    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


def _read_stored(file: Path, name: str) -> npt.NDArray[Any]:
    """A tensor in its own type, or in float32 where that is bfloat16, which numpy does not have."""
    import torch

    tensor = _open_tensor(file, name)
    array: npt.NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def open_base(source: str | Path, revision: str | None = None) -> Base:
    """Open a base model from a directory or a GGUF file, or download it from the hub by its id, at a revision.

    Raises:
        ExportError: it is not there, has no safetensors weights, or is of a family that cannot be exported.
        UsageError: a revision of a directory.
    """
    path, commit = Path(source), None
    if (file := gguf_file(path)) is not None:
        if revision is not None:
            raise UsageError(f"--revision needs a base from the hub, {source} is a file.", "Leave --revision out.")
        return replace(open_base(_converted(file)), name=file.stem, gguf=file)
    if not path.is_dir():
        path, commit = download(str(source), revision)
    elif revision is not None:
        raise UsageError(f"--revision needs a base from the hub, {source} is a directory.", "Leave --revision out.")
    config = _read_config(path / "config.json")
    family = config.get("model_type")
    if family not in EXPORTABLE_FAMILIES:
        raise ExportError(
            f"{path / 'config.json'} names the architecture {family!r}, which cannot be exported.",
            f"Families that can: {', '.join(EXPORTABLE_FAMILIES)}.",
        )
    shapes, files = _tensors(path)
    quantized = find_quantization(path, config, shapes)
    if quantized:
        shapes = quantized.shapes(lambda name: _read_stored(files[name], name))
        warnings.warn(
            f"{path} is quantized with {quantized.method}: its rounding errors become part of the merged model. "
            "Give the 16-bit model that it was made from instead.",
            EdgeReasonWarning,
            stacklevel=2,
        )
    base = Base(path, str(source) if commit else path.resolve().name, config, shapes, files, commit, quantized)
    return _with_its_head(base)


def gguf_file(path: Path) -> Path | None:
    """A base that is a GGUF file, or the only one in a directory without config.json; None where it is none."""
    if path.is_file() and path.suffix == ".gguf":
        return path
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / "config.json").is_file() else []
    return files[0] if len(files) == 1 else None


def _converted(file: Path) -> Path:
    from edgereason.export.inputs.gguf.gguf_conversion import converted

    warnings.warn(
        f"{file} is a GGUF file: its weights are dequantized, and their rounding errors become part of the model.",
        EdgeReasonWarning,
        stacklevel=3,
    )
    return converted(file)


def _with_its_head(base: Base) -> Base:
    """The base with the embeddings and the LM head that transformers gives it where config.json ties the two.

    Where the files have both, and different numbers, the head is not tied; where they have the head alone, its numbers
    are the embeddings.
    """
    if not base.tied:
        return base
    if HEAD in base.shapes and EMBEDDINGS not in base.shapes:
        renamed = {EMBEDDINGS: HEAD}
        shapes = {**base.shapes, EMBEDDINGS: base.shapes[HEAD]}
        return replace(base, shapes=shapes, files={**base.files, EMBEDDINGS: base.files[HEAD]}, stored_as=renamed)
    if HEAD not in base.shapes or _equal(base, HEAD, EMBEDDINGS):
        return base
    return replace(base, config={**base.config, "tie_word_embeddings": False}, tied_in_name_only=True)


def _equal(base: Base, one: str, other: str) -> bool:
    """Whether two weights have the same values; of float weights only one part at a time is in memory."""
    import torch

    if base.shapes[one] != base.shapes[other]:
        return False
    if base.quantized:
        return np.array_equal(base.read(one), base.read(other))
    first, second = (_open_tensor(base.files[name], name) for name in (one, other))
    parts = [slice(start, start + _ROWS_COMPARED) for start in range(0, len(first), _ROWS_COMPARED)]
    return all(torch.equal(first[part].float(), second[part].float()) for part in parts)


def _tensors(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """The shape and the file of every tensor of a model."""
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    for file in _weight_files(path):
        found = _read_shapes(file)
        shapes.update(found)
        files.update(dict.fromkeys(found, file))
    return shapes, files


def _weight_files(path: Path) -> list[Path]:
    """One file, those of an index, or what lies there; as transformers finds them."""
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = _read_config(index).get("weight_map")
        if not isinstance(names, dict) or any(Path(str(name)).name != name for name in names.values()):
            raise ExportError(f"{index} has no weight_map of files beside it.", "Copy the model again from its source.")
        return [path / name for name in sorted(set(names.values()))]
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ExportError(
            f"{path} has no safetensors weights.",
            "Pickled weights (.bin) are not read, they can execute code: save the model again with save_pretrained().",
        )
    return weights


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, by name.

    Raises:
        ExportError: the file is truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} cannot be read: {error}.", "Copy it again from its source.") from error


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"{path} does not exist.", "Give a Hugging Face model directory.")
    with as_export_errors():
        return read_json(path)
