"""What an export takes, estimated before it begins: sizes, disk, memory and time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import ExportError
from edgereason.export.fidelity.layerwise_model import layerwise_memory_needed
from edgereason.export.fidelity.reference_model import available_memory, resident_memory_needed
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.settings import Settings

_EMBEDDINGS_AND_HEAD = ("model.embed_tokens.weight", "lm_head.weight")
# Bits per weight with scales, of linear layers and of embeddings and LM head, as measured on exported bundles.
_GGUF_BITS = {"IQ4_XS": 4.3, "Q4_0": 4.5, "Q4_K_M": 4.9, "Q5_K_M": 5.7, "Q6_K": 6.6, "Q8_0": 8.5, "F16": 16.0}
_ONNX_BITS = {4: (5.0, 9.0), 8: (9.0, 9.0), 16: (16.0, 16.0), 32: (32.0, 32.0)}
_LIBRARIES = 600_000_000
"""Bytes of torch, transformers and PEFT themselves."""
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class PlannedModel:
    """One model of the bundle.

    Attributes:
        name: The stage, or `base` where stages share one.
        parameters: The number of parameters.
        bytes: Approximate size in the bundle.
        work_bytes: Approximate size of temporary files while it is written.
        memory_bytes: An upper bound of the memory that writing takes.
        seconds: Approximate time to merge and write it on this machine, without calibration and verification:
            extrapolated from merging some weights.
    """

    name: str
    parameters: int
    bytes: int
    work_bytes: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class ExportPlan:
    """An export that has not begun.

    Attributes:
        models: The models of the bundle.
        memory_bytes: Approximate peak memory, verification included.
        free_disk: Free bytes on the bundle's disk.
        free_memory: Available bytes of memory; None where the system does not say.
        place: The directory whose disk that is.
    """

    models: tuple[PlannedModel, ...]
    memory_bytes: int
    free_disk: int
    free_memory: int | None
    place: Path

    @property
    def bytes(self) -> int:
        """The bundle's size."""
        return sum(model.bytes for model in self.models)

    @property
    def disk_bytes(self) -> int:
        """Peak bytes on the disk."""
        return self.bytes + max(model.work_bytes for model in self.models)

    @property
    def seconds(self) -> float:
        return sum(model.seconds for model in self.models)

    def check(self) -> None:
        """Refuse an export that does not fit on this machine.

        Raises:
            ExportError: there is too little disk or memory.
        """
        if self.free_disk < self.disk_bytes:
            raise ExportError(
                f"{self.place} has {_gigabytes(self.free_disk)} of disk free, this export needs about "
                f"{_gigabytes(self.disk_bytes)}.",
                "Free some space, or give an --out on another disk.",
            )
        if self.free_memory is not None and self.free_memory < self.memory_bytes:
            raise ExportError(
                f"{_gigabytes(self.free_memory)} of memory are free, this export needs about "
                f"{_gigabytes(self.memory_bytes)}.",
                "Close other programs, export on a larger machine, or skip verification with --no-verify.",
            )


def plan_models(models: Mapping[str, MergedWeights], out: Path, settings: Settings, timed: bool = True) -> ExportPlan:
    """Plan an export.

    Args:
        models: The models to write, by stage or under `base`.
        out: The bundle's directory.
        settings: The format and its options.
        timed: Estimate the time by merging some weights.
    """
    planned = tuple(_plan_model(name, weights, settings, timed) for name, weights in models.items())
    place = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    memory = max(model.memory_bytes for model in planned)
    free = available_memory()
    if settings.verify:
        memory = max(memory, *(_verification_memory(each.shapes, free) for each in models.values()))
    return ExportPlan(planned, memory, shutil.disk_usage(place).free, free, place)


def _verification_memory(shapes: Mapping[str, tuple[int, ...]], free: int | None) -> int:
    """Bytes of the reference model: all of it in memory where that is available, else layer by layer."""
    resident = resident_memory_needed(sum(map(math.prod, shapes.values())))
    return resident if free is None or resident <= free else min(resident, layerwise_memory_needed(shapes))


def _plan_model(name: str, weights: MergedWeights, settings: Settings, timed: bool) -> PlannedModel:
    sizes = {tensor: math.prod(shape) for tensor, shape in weights.shapes.items()}
    parameters, largest = sum(sizes.values()), 4 * max(sizes.values())
    stored = int(sum(size * _bits(tensor, weights, settings) for tensor, size in sizes.items()) / 8)
    work = 4 * parameters if settings.format == "onnx" else 0
    if settings.method == "gptq":
        work += stored
    # onnxruntime-genai's builder holds the model in float32, and what it makes of it.
    memory = _LIBRARIES + (8 * parameters if settings.format == "onnx" else 6 * largest)
    seconds = _seconds(weights, sizes, settings) if timed else 0.0
    return PlannedModel(name, parameters, stored, work, memory, seconds)


def _bits(name: str, weights: MergedWeights, settings: Settings) -> float:
    """Bits per parameter of a tensor, its scales included."""
    embeds = name in _EMBEDDINGS_AND_HEAD
    if len(weights.shapes[name]) == 1:
        return 32.0
    if settings.format == "onnx":
        if (
            name == _EMBEDDINGS_AND_HEAD[0] and _EMBEDDINGS_AND_HEAD[1] in weights
        ):  # quantized only where it is tied to the LM head
            return 16.0 if settings.bits == 16 else 32.0
        return _ONNX_BITS[settings.bits][embeds]
    if settings.gguf_type is not None:
        return max(_GGUF_BITS[settings.gguf_type], 6.6 if embeds else 0.0)
    if settings.bits == 16 or (embeds and settings.format == "gptq"):
        return 16.0
    group = settings.group_size or 32
    return 8.5 if embeds else settings.bits + (16 / group if group > 0 else 0)


def _seconds(weights: MergedWeights, sizes: Mapping[str, int], settings: Settings) -> float:
    """Merge some weights for a moment and extrapolate: merging is most of the time in most formats."""
    done, began = 0, time.monotonic()
    for name in sorted(weights, key=lambda name: (name in _EMBEDDINGS_AND_HEAD, name)):
        weights[name]
        done += sizes[name]
        if time.monotonic() - began > _SAMPLE_SECONDS:
            break
    rate = done / max(time.monotonic() - began, 1e-6)
    return sum(sizes.values()) / rate * (2 if settings.format == "onnx" else 1.5)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
