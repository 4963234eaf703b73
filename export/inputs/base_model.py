"""What goes into an export, checked before any work begins: the base, and an adapter that really belongs to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

import edgereason
from edgereason import models
from edgereason.errors import BundleError, EdgeReasonWarning, ExportError, UsageError
from edgereason.export.inputs.dequantize import Quantized, find_quantization
from edgereason.export.inputs.hub import download
from edgereason.files import file_sha256, read_json
from edgereason.kernels.packing import BFloat16
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import TOKENIZER_FILES

if TYPE_CHECKING:
    import torch

Float = npt.NDArray[np.float32] | npt.NDArray[np.float16] | BFloat16
"""Numbers of 32 or 16 bits."""

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Base:
    """A base model: a Hugging Face directory with safetensors weights."""

    path: Path
    name: str
    """The hub id, or the directory's name."""
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor, by its name in the checkpoint."""
    files: dict[str, Path]
    """Where each tensor lies."""
    revision: str | None = None
    """The commit that was downloaded; None for a directory."""
    quantized: Quantized | None = None
    """How its weights are stored, where they are quantized; they are read in fp32 all the same."""

    @property
    def weights(self) -> tuple[Path, ...]:
        return tuple(sorted(set(self.files.values())))

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.weights)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor in fp32, by its name in the checkpoint; not to be changed in place.

        Raises:
            ExportError: the checkpoint has none of this name.
        """
        if name not in self.shapes:
            raise ExportError(f"{self.path} has no {name}.", "Give a complete model, saved by save_pretrained().")
        if self.quantized:
            return self.quantized.read(name, self._stored)
        return self._stored(name).astype(np.float32, copy=False)

    def mapped(self, name: str) -> Float | None:
        """A tensor in the 16 or 32 bits that it is stored in, mapped from disk; None where it is stored otherwise."""
        import torch

        if self.quantized or name not in self.shapes:
            return None
        tensor = _open_tensor(self.files[name], name)
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


@dataclass(frozen=True)
class Adapter:
    """A PEFT LoRA adapter: adapter_config.json, adapter_model.safetensors, and the prompt it was trained with."""

    path: Path
    config: dict[str, Any]
    prompt: Prompt
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor, by PEFT's name without its prefix: `model.layers.0.self_attn.q_proj.lora_A.weight`."""
    blend: Blend | None = None
    extrapolation: Extrapolation | None = None

    @property
    def parts(self) -> tuple[Adapter, ...]:
        """All adapters that are applied together: itself, and those that are blended with it."""
        return (self, *(self.blend.others if self.blend else ()))

    @property
    def weights(self) -> Path:
        return self.path / "adapter_model.safetensors"

    def read(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Every tensor in fp32, by the names of `shapes`."""
        with safe_open(self.weights, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                yield name.removeprefix(PEFT_PREFIX), file.get_tensor(name).float().numpy()


@dataclass(frozen=True)
class Blend:
    """How an adapter is combined with others: the arguments of PEFT's `add_weighted_adapter`."""

    weights: tuple[float, ...]
    """Of the adapter itself, then of the others."""
    others: tuple[Adapter, ...]
    method: str
    density: float
    seed: int


@dataclass(frozen=True)
class Extrapolation:
    """How far a model goes beyond its adapter, away from where a reference adapter is (ExPO, arXiv 2404.16792)."""

    alpha: float
    reference: Adapter


def families(format: str) -> tuple[str, ...]:
    """The values of `model_type` in config.json that can be exported to a format."""
    if format == "gguf":
        from edgereason.export.gguf import FAMILIES  # its library may be missing

        return tuple(sorted(FAMILIES))
    if format == "onnx":
        from edgereason.export.formats.onnx_families import FAMILIES as ONNX_FAMILIES

        return ONNX_FAMILIES
    # Of models that see images as well, only the text part could be written.
    return tuple(sorted(set(models.FAMILIES) - {"gemma3"}))


def open_base(source: str | Path, format: str = "native", revision: str | None = None) -> Base:
    """Open a base model from a directory, or download it from the hub by its id, at a revision.

    Raises:
        ExportError: it is not there, has no safetensors weights, or is of a family that cannot be exported to `format`.
    """
    path, commit = Path(source), None
    if not path.is_dir():
        path, commit = download(str(source), revision)
    elif revision is not None:
        raise UsageError(f"--revision is for a base from the hub, {source} is a directory.", "Leave --revision out.")
    config = _read_config(path / "config.json")
    family = config.get("model_type")
    if family not in families(format):
        raise ExportError(
            f"{path / 'config.json'} names the architecture {family!r}, which cannot be exported to {format}.",
            f"Families that can: {', '.join(families(format))}."
            + (" Or give --format native." if family in families("native") else ""),
        )
    shapes, files = _tensors(path)
    quantized = find_quantization(path, config, shapes)
    if quantized:
        shapes = quantized.shapes(lambda name: _read_stored(files[name], name))
        warnings.warn(
            f"{path} is quantized with {quantized.method}: its rounding errors become part of the merged model. "
            "Training or merging on the 16-bit model that it was made from is better.",
            EdgeReasonWarning,
            stacklevel=2,
        )
    return Base(path, str(source) if commit else path.resolve().name, config, shapes, files, commit, quantized)


def _tensors(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """The shape and the file of every tensor of a model."""
    shapes: dict[str, tuple[int, ...]] = {}
    files: dict[str, Path] = {}
    for file in _weight_files(path):
        found = read_shapes(file)
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


def open_adapter(path: Path, default_prompt: Prompt) -> Adapter:
    """Open a PEFT adapter; `default_prompt` holds where it brings no `prompt.json`.

    Raises:
        ExportError: files are missing or damaged, or it is not a LoRA adapter.
    """
    config_file, weights = path / "adapter_config.json", path / "adapter_model.safetensors"
    if not config_file.is_file() or not weights.is_file():
        missing = weights.name if config_file.is_file() else config_file.name
        raise ExportError(
            f"{path} is not a PEFT adapter: it has no {missing}.", "Give the directory that save_pretrained() wrote."
        )
    config = _read_config(config_file)
    if config.get("peft_type") != "LORA":
        raise ExportError(f"{config_file} is of the kind {config.get('peft_type')!r}.", "Only LoRA can be merged.")
    prompt_file = path / "prompt.json"
    prompt = Prompt.from_json(read_json(prompt_file), str(prompt_file)) if prompt_file.is_file() else default_prompt
    shapes = {name.removeprefix(PEFT_PREFIX): shape for name, shape in read_shapes(weights).items()}
    return Adapter(path, config, prompt, shapes)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a safetensors file, by name.

    Raises:
        ExportError: the file is truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path} cannot be read: {error}.", "Copy it again from its source.") from error


def describe(base: Base, adapter: Adapter) -> dict[str, Any]:
    """Where a stage comes from, for the manifest: names and sums, no paths."""
    return {
        "base": {
            "name": base.name,
            **({"revision": base.revision} if base.revision else {}),
            "family": base.config["model_type"],
            **({"quantized": base.quantized.method} if base.quantized else {}),
            "files": {file.name: _sum(file) for file in base.weights},
        },
        "adapter": describe_adapter(adapter),
    }


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """What is combined into a stage's adapter, for the manifest: names, sums and how."""
    described: dict[str, Any] = {"name": adapter.path.name, "sha256": _sum(adapter.weights)}
    if blend := adapter.blend:
        others = [describe_adapter(other) for other in blend.others]
        how = {"method": blend.method, "weights": list(blend.weights), "density": blend.density, "seed": blend.seed}
        described["blend"] = {**how, "others": others}
    if extrapolation := adapter.extrapolation:
        reference = describe_adapter(extrapolation.reference)
        described["extrapolation"] = {"alpha": extrapolation.alpha, "reference": reference}
    return described


def _sum(file: Path) -> str:
    state = file.stat()
    return _known_sum(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _known_sum(file: Path, size: int, changed: int) -> str:
    """A file's SHA-256 sum, computed once for both stages where they have the same base."""
    return file_sha256(file)


def fingerprint(base: Base, adapter: Adapter) -> dict[str, str]:
    """Sums of the small files that an export depends on; those of the weights stand in `describe`."""
    files = [base.path / name for name in ("config.json", "generation_config.json", *TOKENIZER_FILES)]
    adapters = [*adapter.parts, *([adapter.extrapolation.reference] if adapter.extrapolation else [])]
    for part in adapters:
        files += [part.path / name for name in ("adapter_config.json", "prompt.json", *TOKENIZER_FILES)]
    sums = {f"{index}/{file.name}": file_sha256(file) for index, file in enumerate(files) if file.is_file()}
    return {"edgereason": edgereason.__version__, **sums}


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"{path} does not exist.", "Give a Hugging Face model directory.")
    try:
        return read_json(path)
    except BundleError as error:
        raise ExportError(error.what, error.cure) from error
