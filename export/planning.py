"""What an export will take, told before it begins: sizes, disk, memory and time."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgereason.errors import ExportError
from edgereason.export.fidelity.layerwise_model import streamed_memory_needed
from edgereason.export.fidelity.reference_model import available_memory, memory_needed
from edgereason.export.inputs.merge import MergedWeights
from edgereason.export.settings import Settings

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
# Bits per weight with scales, of linear layers and of tables, as measured on exported bundles.
_GGUF_BITS = {"IQ4_XS": 4.3, "Q4_0": 4.5, "Q4_K_M": 4.9, "Q5_K_M": 5.7, "Q6_K": 6.6, "Q8_0": 8.5, "F16": 16.0}
_ONNX_BITS = {4: (5.0, 9.0), 8: (9.0, 9.0), 16: (16.0, 16.0), 32: (32.0, 32.0)}
_LIBRARIES = 600_000_000
"""Bytes that torch, transformers and PEFT take by themselves."""
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class PlannedModel:
    """One model of the bundle.

    Attributes:
        name: The stage, or `base` where stages share one.
        parameters: How many numbers it is made of.
        bytes: About what it will take in the bundle.
        work_bytes: About what lies beside the bundle while it is written.
        memory_bytes: Memory that is enough to write it, mostly by far: for an adapter that changes the largest tensor.
        seconds: Roughly how long merging and writing take here and now, verifying and calibration aside: merging some
            weights is tried, the rest is scaled up.
    """

    name: str
    parameters: int
    bytes: int
    work_bytes: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """An export that has not begun.

    Attributes:
        models: What will be written.
        memory_bytes: About the most memory that it takes, with verifying.
        free_disk: Bytes free where the bundle will be.
        free_memory: Bytes of memory that can be had; None where the system does not say.
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
        """The most that lies on the disk at a time."""
        return self.bytes + max(model.work_bytes for model in self.models)

    @property
    def seconds(self) -> float:
        return sum(model.seconds for model in self.models)

    def check(self) -> None:
        """Refuse early what cannot be done here.

        Raises:
            ExportError: there is too little disk or memory.
        """
        if self.free_disk < self.disk_bytes:
            raise ExportError(
                f"{self.place} has {_gigabytes(self.free_disk)} free, this export needs about "
                f"{_gigabytes(self.disk_bytes)}.",
                "Free some space, or give an --out on another disk.",
            )
        if self.free_memory is not None and self.free_memory < self.memory_bytes:
            raise ExportError(
                f"{_gigabytes(self.free_memory)} of memory are free, this export needs about "
                f"{_gigabytes(self.memory_bytes)}.",
                "Close other programs, export on a larger machine, or leave verifying out with --no-verify.",
            )


def make_plan(models: Mapping[str, MergedWeights], out: Path, settings: Settings, timed: bool = True) -> Plan:
    """Plan an export.

    Args:
        models: By stage, or under `base`, what will be written.
        out: Where the bundle will be.
        settings: The format and its options.
        timed: Try for a moment how long it takes.
    """
    planned = tuple(_plan_model(name, weights, settings, timed) for name, weights in models.items())
    place = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    memory = max(model.memory_bytes for model in planned)
    free = available_memory()
    if settings.verify:
        memory = max(memory, *(_verifying(each.shapes, free) for each in models.values()))
    return Plan(planned, memory, shutil.disk_usage(place).free, free, place)


def _verifying(shapes: Mapping[str, tuple[int, ...]], free: int | None) -> int:
    """Bytes that the reference takes: in memory where that is there, else layer by layer."""
    resident = memory_needed(sum(map(math.prod, shapes.values())))
    return resident if free is None or resident <= free else min(resident, streamed_memory_needed(shapes))


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
    """Bits per number of a tensor, its scales included."""
    table = name in _TABLES
    if len(weights.shapes[name]) == 1:
        return 32.0
    if settings.format == "onnx":
        if name == _TABLES[0] and _TABLES[1] in weights:  # it is quantized only where it is the head as well
            return 16.0 if settings.bits == 16 else 32.0
        return _ONNX_BITS[settings.bits][table]
    if settings.gguf_type is not None:
        return max(_GGUF_BITS[settings.gguf_type], 6.6 if table else 0.0)
    if settings.bits == 16 or (table and settings.format == "gptq"):
        return 16.0
    group = settings.group_size or 32
    return 8.5 if table else settings.bits + (16 / group if group > 0 else 0)


def _seconds(weights: MergedWeights, sizes: Mapping[str, int], settings: Settings) -> float:
    """Merge some weights for a moment, and scale up: what lies under all formats, and takes most of most of them."""
    done, began = 0, time.monotonic()
    for name in sorted(weights, key=lambda name: (name in _TABLES, name)):
        weights[name]
        done += sizes[name]
        if time.monotonic() - began > _SAMPLE_SECONDS:
            break
    rate = done / max(time.monotonic() - began, 1e-6)
    return sum(sizes.values()) / rate * (2 if settings.format == "onnx" else 1.5)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
