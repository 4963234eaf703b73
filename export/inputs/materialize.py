"""Merged weights as a Hugging Face directory, for tools that read one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgereason.errors import ExportError
from edgereason.export.inputs.merged_weights import Float, MergedWeights
from edgereason.export.inputs.tokenizer_files import copy_tokenizer, write_generation_config
from edgereason.export.progress_callbacks import StepProgress, silent
from edgereason.export.safetensors_writer import write_safetensors
from edgereason.files import write_json
from edgereason.kernels.packing import BFloat16

_TYPES: dict[str, npt.DTypeLike | type[BFloat16]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": BFloat16,
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

SHARD_BYTES = 4 << 30
"""Maximum bytes of one file that `materialize` writes, unless a single tensor is larger."""


def materialize(merged: MergedWeights, directory: Path, progress: StepProgress = silent) -> None:
    """Write merged weights as a Hugging Face directory in float32.

    Tensors that merging does not change keep the 16-bit type of the base: reading them as float32, which the
    configuration asks for unless all tensors are of one type, gives the same numbers.

    Args:
        merged: What to write.
        directory: Made if absent.
        progress: Called after each tensor.

    Raises:
        ExportError: a weight is not finite, or the disk is full.
    """
    kept = {name: array for name in merged.shapes if (array := merged.as_stored(name)) is not None}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in merged.config.items() if key not in ("torch_dtype", "dtype")}
        kinds = {_kind(kept.get(name)) for name in merged.shapes}
        write_json(directory / "config.json", {**config, "dtype": kinds.pop() if len(kinds) == 1 else "float32"})
        write_generation_config(merged.base, merged.tokenizer, directory)
        copy_tokenizer(merged.tokenizer, directory)
        _write_shards(merged, kept, directory, progress)
    except OSError as error:
        raise ExportError(
            f"The merged weights could not be written: {error.strerror or error}.",
            "Free some space, or give an --out on another disk.",
        ) from error


def _write_shards(merged: MergedWeights, kept: Mapping[str, Float], directory: Path, progress: StepProgress) -> None:
    shards = _shards(merged.shapes)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{index:05}-of-{len(shards):05}.safetensors" for index in range(1, len(shards) + 1)]
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        size = sum(_numbers({name: shape}) * _BYTES[_kind(kept.get(name))] for name, shape in merged.shapes.items())
        write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": where})
    done = 0
    for file, shard in zip(names, shards, strict=True):
        start = done

        def tensors(shard: list[str] = shard, start: int = start) -> Iterator[tuple[str, Float]]:
            for done, name in enumerate(shard, start=start + 1):
                yield name, merged.checked(name, kept[name]) if name in kept else merged[name]
                progress(done, len(merged))

        specs = {name: (_TYPES[_kind(kept.get(name))], merged.shapes[name]) for name in shard}
        write_safetensors(directory / file, specs, tensors(), {"format": "pt"})
        done += len(shard)


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        bytes_ = 4 * _numbers({name: shape})
        if shards[-1] and size + bytes_ > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_
    return shards


def _kind(stored: Float | None) -> str:
    """The type that a tensor is written in."""
    if stored is None:
        return "float32"
    return "bfloat16" if isinstance(stored, BFloat16) else stored.dtype.name


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())
