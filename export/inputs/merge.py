"""Base + adapters -> one set of weights, merged in fp32 with PEFT, one tensor at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgereason.errors import ExportError
from edgereason.export.formats.safetensors_file import write_streamed
from edgereason.export.inputs.base_model import Adapter, Base, Float
from edgereason.export.inputs.pairing import check_architecture, vocabulary
from edgereason.files import write_json
from edgereason.kernels.packing import BFloat16
from edgereason.text.tokenizer import TOKENIZER_FILES

Float32 = npt.NDArray[np.float32]
Report = Callable[[int, int], None]
"""Called with the tensors done and their number."""

Stored = TypeVar("Stored", bound=Float)

_EXPONENT = np.uint16(0x7F80)
"""Of bfloat16; all of its bits set are an infinity or no number."""

_TYPES: dict[str, npt.DTypeLike | type[BFloat16]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": BFloat16,
}
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

SHARD_BYTES = 4 << 30
"""Most bytes of one file that `materialize` writes, unless a single tensor is larger."""


@dataclass(frozen=True)
class MergedWeights(Mapping[str, Float32]):
    """A merged model whose weights are computed when they are asked for, and not kept.

    A mapping from Hugging Face tensor names, in the model's order, to new float32 arrays; not to be changed in place.
    An output head that is the embedding table is not among them.

    Attributes:
        config: The merged model's Hugging Face configuration (its vocabulary, and whether its head is tied).
        shapes: Of every tensor, known without computing it.
        tokenizer: The directory with the tokenizer's files.
        base: The directory of the base.
        compute: What gives a tensor by its name.
        as_stored: What gives a tensor that merging leaves as it is in the bits that the base has it in, mapped from
            disk and not looked at yet; None for others.
    """

    config: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    tokenizer: Path
    base: Path
    compute: Callable[[str], Float32]
    as_stored: Callable[[str], Float | None] = lambda name: None

    def __getitem__(self, name: str) -> Float32:
        if name not in self.shapes:
            raise KeyError(name)
        return self.checked(name, self.compute(name))

    def checked(self, name: str, array: Stored) -> Stored:
        """A tensor whose values are finite.

        Raises:
            ExportError: they are not.
        """
        if not _finite(array):
            raise ExportError(
                f"{name} of {self.base} has NaN or infinite values.", "Copy the base again from its source."
            )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def merge(base: Base, adapter: Adapter | None = None) -> MergedWeights:
    """Merge an adapter into its base, lazily: no more of the base is in memory than a layer's weight.

    Without an adapter, the base's own weights.

    Each LoRA product is added in fp32 whatever the base is stored in: adding it to 16-bit or quantized weights loses
    most of a small adapter (QLoRA, arXiv 2305.14314, discusses the same for training).

    Where base and adapter differ about an output head that is tied to the embedding table, and the adapter changes one
    of the two, the merged model has two tables, which is what base and unmerged adapter compute.

    Raises:
        ExportError: the adapter does not fit the base; for a tensor that is asked for: it is not finite.
    """
    if adapter is None or adapter.extrapolation is None:
        return _merge(base, adapter)
    alpha, reference = adapter.extrapolation.alpha, _merge(base, adapter.extrapolation.reference)
    trained = _merge(base, adapter)
    if trained.shapes != reference.shapes:
        raise ExportError(
            f"{adapter.path} and {adapter.extrapolation.reference.path} have different weights: one of them has "
            "another vocabulary, or a head of its own.",
            "Extrapolate from an adapter of the same kind, such as the one that training began with.",
        )

    def compute(name: str) -> Float32:
        here, there = trained[name], reference[name]
        # theta + alpha (theta - reference), eq. 2 of arXiv 2404.16792; exact where the two are the same.
        beyond: Float32 = here + np.float32(alpha) * (here - there)
        return beyond

    return MergedWeights(trained.config, trained.shapes, trained.tokenizer, trained.base, compute)


def _merge(base: Base, adapter: Adapter | None) -> MergedWeights:
    from edgereason.export.inputs.skeleton import Skeleton

    plain = {key: value for key, value in base.config.items() if key != "quantization_config"}
    config = {**plain, "vocab_size": vocabulary(base, adapter)}
    skeleton = Skeleton(config, adapter)
    check_architecture(base, skeleton)

    def read(name: str) -> Float32:
        return skeleton.stored(name, base.read)

    def compute(name: str) -> Float32:
        return skeleton.merged(name, read)

    def same(name: str, source: str) -> bool:
        if not skeleton.changes(name):
            # A table that training has put in place of the base's is the head as well.
            return not skeleton.changes(source) or np.array_equal(read(name), compute(source))
        return np.array_equal(compute(name), compute(source))

    def as_stored(name: str) -> Float | None:
        return None if name in skeleton.tied or skeleton.changes(name) else base.mapped(name)

    tied = {name for name, source in skeleton.tied.items() if same(name, source)}
    shapes = {name: shape for name, shape in skeleton.shapes.items() if name not in tied}
    if skeleton.tied and not tied:
        config["tie_word_embeddings"] = False
    tokenizer = find_tokenizer(*(each.path for each in (adapter, base) if each))
    return MergedWeights(config, shapes, tokenizer, base.path, compute, as_stored)


def materialize(merged: MergedWeights, directory: Path, report: Report | None = None) -> None:
    """Write merged weights as a Hugging Face directory in fp32, for tools that read one.

    Tensors that merging leaves as they are keep the 16 bits that the base has them in: reading them as fp32, which the
    configuration asks for unless all are of one type, gives the same numbers.

    Args:
        merged: What to write.
        directory: Made if absent.
        report: Called after each tensor.

    Raises:
        ExportError: a weight is not finite, or the disk is full.
    """
    kept = {name: array for name in merged.shapes if (array := merged.as_stored(name)) is not None}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in merged.config.items() if key not in ("torch_dtype", "dtype")}
        kinds = {_kind(kept.get(name)) for name in merged.shapes}
        write_json(directory / "config.json", {**config, "dtype": kinds.pop() if len(kinds) == 1 else "float32"})
        if (merged.base / "generation_config.json").is_file():
            shutil.copyfile(merged.base / "generation_config.json", directory / "generation_config.json")
        copy_tokenizer(merged.tokenizer, directory)
        _write_shards(merged, kept, directory, report or (lambda done, total: None))
    except OSError as error:
        raise ExportError(
            f"The merged weights could not be written: {error.strerror or error}.",
            "Free some space, or give an --out on another disk.",
        ) from error


def _write_shards(merged: MergedWeights, kept: Mapping[str, Float], directory: Path, report: Report) -> None:
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
                report(done, len(merged))

        specs = {name: (_TYPES[_kind(kept.get(name))], merged.shapes[name]) for name in shard}
        write_streamed(directory / file, specs, tensors(), {"format": "pt"})
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


def _finite(array: Float) -> bool:
    """Whether all values are finite; of float32 read once, where that is so and none is beyond 1e19."""
    if isinstance(array, BFloat16):
        return not bool(((array.bits & _EXPONENT) == _EXPONENT).any())
    if array.dtype == np.float16:
        return bool(np.isfinite(array).all())
    flat = array.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = flat @ flat  # infinite or NaN if a value is
    return bool(np.isfinite(squares)) or bool(np.isfinite(flat).all())


def _numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def find_tokenizer(*directories: Path) -> Path:
    """The first directory with a tokenizer: the adapter's goes before the base's, since training may add tokens.

    Raises:
        ExportError: none has a tokenizer.json.
    """
    for directory in directories:
        if (directory / "tokenizer.json").is_file():
            return directory
    raise ExportError(
        f"{directories[-1]} has no tokenizer.json.",
        "Save the tokenizer there with AutoTokenizer.from_pretrained(...).save_pretrained(...).",
    )


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy a tokenizer's files."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
