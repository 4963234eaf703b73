"""The native format: weights in the kernels' own order, in a safetensors file that is mapped and used as it is.

A stage's directory gets `config.json` and `model.safetensors`; `edgereason.checkpoints.weights` tells what they hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.weights import FUSED, NATIVE_FORMAT, NATIVE_VERSION
from edgereason.errors import ExportError
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.prefetch import prefetch
from edgereason.export.progress_callbacks import StepProgress, silent
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.export.safetensors_writer import ALIGNMENT, TensorSpec, write_safetensors
from edgereason.files import new_file, write_json
from edgereason.kernels import packing
from edgereason.kernels.packing import PANEL, BFloat16, PackedWeight

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

_FUSED_NAMES = {part: whole for whole, parts in FUSED.items() for part in parts}
_PLURALS = {"weight": "weights", "bias": "biases"}
_PARTS = ("qweight", "scales", "zeros", "order")


def write_native(
    directory: Path,
    config: dict[str, Any],
    weights: Mapping[str, Float32],
    rounding: Rounding,
    quantized: Mapping[str, PackedWeight] | None = None,
    progress: StepProgress = silent,
) -> None:
    """Write a model for the native engine, one tensor in memory at a time.

    Args:
        directory: Where to write; made if absent.
        config: The model's Hugging Face configuration.
        weights: float32, by their Hugging Face names; with an attribute `shapes`, each is asked for once.
        rounding: How they are stored.
        quantized: Weights that are already quantized, by their names without `.weight`; they are stored as they are.
        progress: Called after each tensor.

    Raises:
        ExportError: a weight is missing, not finite or beyond what its type can hold, or the disk is full.
    """
    writer = _writer(config, weights, rounding, quantized or {})
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with prefetch(writer.tensors(progress)) as tensors:
            write_safetensors(directory / "model.safetensors", writer.specs, tensors, writer.metadata)
        with new_file(directory / "config.json") as partial:
            write_json(partial, config)
    except BaseException as error:
        if made:
            with suppress(OSError):
                directory.rmdir()
        if isinstance(error, OSError):
            raise ExportError(f"{directory} cannot be written: {error.strerror}.", "Is there space left?") from error
        raise


def native_bytes(
    config: dict[str, Any], weights: Mapping[str, Float32], rounding: Rounding, quantized: Mapping[str, PackedWeight]
) -> int:
    """The size of the file that `write_native` would write, give or take its header's padding."""
    writer = _writer(config, weights, rounding, quantized)
    # Each tensor's entry in the header is about a hundred bytes and its name.
    return sum(_bytes(spec) + len(name) + 100 for name, spec in writer.specs.items())


@dataclass(frozen=True)
class _FusedTensor:
    """A weight or bias of the file, and the checkpoint's tensors that it consists of, in the order of their rows."""

    name: str
    sources: list[str]
    shapes: list[tuple[int, ...]]

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".weight")

    @property
    def rows(self) -> int:
        return sum(shape[0] for shape in self.shapes)


def _fused_tensors(shapes: Mapping[str, tuple[int, ...]]) -> list[_FusedTensor]:
    """The tensors of the file, by the names and shapes of the checkpoint's tensors."""
    found: dict[str, dict[str, str]] = {}
    for name, shape in shapes.items():
        stem, _, kind = name.rpartition(".")
        if (kind, len(shape)) not in (("weight", 1), ("weight", 2), ("bias", 1)):
            raise ExportError(f"The native format has no place for {name} {list(shape)}.", "Choose another --format.")
        prefix, _, last = stem.rpartition(".")
        whole = f"{prefix}.{_FUSED_NAMES[last]}.{kind}" if last in _FUSED_NAMES else name
        found.setdefault(whole, {})[last] = name
    wholes = []
    for whole, parts in found.items():
        fused = _FUSED_NAMES.get(next(iter(parts)))
        wanted = FUSED[fused] if fused else tuple(parts)
        if missing := sorted(set(wanted) - set(parts)):
            kind = _PLURALS[whole.rpartition(".")[2]]
            raise ExportError(f"{whole} lacks the {kind} of {', '.join(missing)}.", "Give a complete base.")
        sources = [parts[last] for last in wanted]
        wholes.append(_FusedTensor(whole, sources, [shapes[name] for name in sources]))
    return wholes


def _writer(
    config: dict[str, Any], weights: Mapping[str, Float32], rounding: Rounding, quantized: Mapping[str, PackedWeight]
) -> _Writer:
    shapes: Mapping[str, tuple[int, ...]] = getattr(weights, "shapes", None) or {
        name: array.shape for name, array in weights.items()
    }
    tied = "lm_head.weight" if config.get("tie_word_embeddings") else None
    wholes = _fused_tensors({name: shape for name, shape in shapes.items() if name != tied})
    return _Writer(weights, rounding, quantized, wholes)


class _Writer:
    """The tensors of the file, with their types and shapes known in advance.

    Attributes:
        specs: Type and shape of each tensor. Those whose size is a multiple of 64 bytes come first, so that each of
            them starts on such a boundary.
        metadata: For the file's header.
    """

    def __init__(
        self,
        weights: Mapping[str, Float32],
        rounding: Rounding,
        quantized: Mapping[str, PackedWeight],
        wholes: list[_FusedTensor],
    ) -> None:
        self._weights = weights
        self._rounding = rounding
        self._quantized = quantized
        self._wholes = wholes
        packed: dict[str, dict[str, int]] = {}
        specs: dict[str, TensorSpec] = {}
        for whole in wholes:
            if self._is_float(whole):
                columns = whole.shapes[0][1:]
                specs[whole.name] = (np.float16 if columns else np.float32, (whole.rows, *columns))
                continue
            bits, parts = self._packed_specs(whole)
            packed[whole.stem] = {"rows": whole.rows, "columns": whole.shapes[0][1], "bits": bits}
            specs.update({f"{whole.stem}.{part}": spec for part, spec in parts.items()})
        self.specs = dict(sorted(specs.items(), key=lambda item: _bytes(item[1]) % ALIGNMENT != 0))
        self.metadata = {"format": NATIVE_FORMAT, "version": NATIVE_VERSION, "packed": json.dumps(packed)}

    def tensors(self, progress: StepProgress) -> Iterator[tuple[str, Array]]:
        """Every tensor, as it is finished."""
        names = [name for whole in self._wholes for name in whole.sources]
        done = count(1)
        with prefetch(map(self._source, names)) as sources:
            for whole in self._wholes:
                parts = []
                for name in whole.sources:
                    parts.append(self._part(name, next(sources)))
                    progress(next(done), len(names))
                yield from _joined(whole, parts)

    def _is_float(self, whole: _FusedTensor) -> bool:
        rounded = whole.sources[0].removesuffix(".weight") in self._quantized
        return len(whole.shapes[0]) == 1 or (self._rounding.bits == 16 and not rounded)

    def _packed_specs(self, whole: _FusedTensor) -> tuple[int, dict[str, TensorSpec]]:
        """The bits of a weight, and type and shape of its parts."""
        stem = whole.sources[0].removesuffix(".weight")
        if stem not in self._quantized:
            rounding = self._rounding.of(stem)
            return rounding.bits, rounding.specs(whole.rows, whole.shapes[0][1])
        first = self._quantized[stem]
        panels = -(-whole.rows // PANEL)
        return first.bits, {
            part: (array.dtype, array.shape if part == "order" else (panels, *array.shape[1:]))
            for part, array in _arrays(first).items()
        }

    def _source(self, name: str) -> PackedWeight | BFloat16 | Array:
        """A quantized weight, or a weight in full precision, in 16 bits where it is going to be quantized."""
        if rounded := self._quantized.get(name.removesuffix(".weight")):
            return rounded
        weights = self._weights
        if self._rounding.bits < 16 and isinstance(weights, MergedWeights) and len(weights.shapes[name]) == 2:
            stored = weights.as_stored(name)
            if stored is not None:
                return stored
        return np.ascontiguousarray(weights[name], np.float32)

    def _part(self, name: str, source: PackedWeight | BFloat16 | Array) -> PackedWeight | Array:
        """A weight as the file stores it."""
        if isinstance(source, PackedWeight):
            return source
        stem = name.removesuffix(".weight")
        if isinstance(source, BFloat16) or (source.ndim == 2 and self._rounding.bits < 16):
            try:
                return self._rounding.of(stem).quantize(source, name)
            except ValueError as error:
                raise _not_finite(name) from error
        if not np.isfinite(source).all():
            raise _not_finite(name)
        if source.ndim == 1:
            return source
        with np.errstate(over="ignore"):
            half = source.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(f"{stem} has values beyond float16.", "Export with --bits 8.")
        return half


def _joined(whole: _FusedTensor, parts: list[PackedWeight | Array]) -> Iterator[tuple[str, Array]]:
    """The tensors of a weight or bias whose parts are one below the other."""
    packed = [part for part in parts if isinstance(part, PackedWeight)]
    if not packed:
        yield whole.name, np.concatenate([part for part in parts if not isinstance(part, PackedWeight)])
        return
    yield from ((f"{whole.stem}.{part}", array) for part, array in _arrays(packing.concatenate(packed)).items())


def _not_finite(name: str) -> ExportError:
    return ExportError(f"{name} has NaN or infinite values.", "Check the base and the adapter.")


def _arrays(weight: PackedWeight) -> dict[str, Array]:
    """The parts of a packed weight."""
    return {part: getattr(weight, part) for part in _PARTS if getattr(weight, part) is not None}


def _bytes(spec: TensorSpec) -> int:
    dtype, shape = spec
    return math.prod(shape) * np.dtype(dtype).itemsize
