"""Quantized bases, dequantized to float32 before adapters are merged.

Adapters may have been trained on such a base (QLoRA), but merging them into the 16-bit model that it was made from is
better, and a warning says so. Three kinds are read:

GPTQ (AutoGPTQ, GPTQModel): `edgereason.checkpoints.gptq_format` has the format.

AWQ, version "gemm" (AutoAWQ; arXiv 2306.00978): for K inputs and N outputs in G groups

    qweight  int32 [K, N / 8]   a word holds 8 neighbouring outputs, from the lowest: 0 2 4 6 1 3 5 7
    qzeros   int32 [G, N / 8]   in the same order
    scales   float [G, N]
    w[n, k] = scales[k / group_size, n] * (q[k, n] - zeros[k / group_size, n])

bitsandbytes, 4 bits (QLoRA, arXiv 2305.14314): beside `weight`, uint8 with the earlier of two values in the high half,

    weight.absmax       float32 [blocks]; or uint8, when it is itself quantized
    weight.quant_map    float32 [16]: what a value means, NF4's or FP4's levels
    weight.quant_state.bitsandbytes__nf4 (or fp4)   JSON: shape, blocksize, and for a quantized absmax nested_*
    w = quant_map[value] * absmax[block]

bitsandbytes, 8 bits (LLM.int8(), arXiv 2208.07339): `weight` int8 [N, K], `SCB` float32 [N]; w = weight * SCB / 127.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints import gptq_format
from edgereason.checkpoints.gptq_format import GptqFormat
from edgereason.errors import BundleError, ExportError
from edgereason.files import read_json

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
ReadStored = Callable[[str], Array]
"""A stored tensor in its own type, by its name; bfloat16 as float32."""

BASE_QUANTIZATIONS = ("gptq", "awq", "bitsandbytes")
_CURE = "Give the 16-bit model that it was made from."
# The place in a word of each of 8 neighbouring outputs.
_AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
_STATE = ".quant_state.bitsandbytes__"


@dataclass(frozen=True)
class QuantizedBase:
    """How the weights of a base are quantized."""

    method: str
    config: dict[str, Any]
    stored: Shapes
    """The shapes of the tensors in the files."""
    where: Path

    def shapes(self, read: ReadStored) -> dict[str, tuple[int, ...]]:
        """The shapes of the dequantized weights, by their names in an unquantized checkpoint."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in self.stored.items():
            stem, _, kind = name.rpartition(".")
            if kind == "qweight" and self.method == "gptq":
                shapes[f"{stem}.weight"] = (shape[1], _gptq_columns(self.stored, stem))
            elif kind == "qweight":
                shapes[f"{stem}.weight"] = (8 * shape[1], shape[0])
            elif _STATE in name:
                weight = name.partition(_STATE)[0]
                shapes[weight] = tuple(_state(read(name))["shape"])
            elif kind in ("weight", "bias") and name not in shapes:
                shapes[name] = shape
        return shapes

    def read(self, name: str, read: ReadStored) -> Float32:
        """A weight, float32, by its name in an unquantized checkpoint.

        Raises:
            ExportError: its tensors do not fit together.
        """
        stem = name.removesuffix(".weight")
        try:
            if f"{stem}.qweight" in self.stored and name.endswith(".weight"):
                return self._from_gptq(stem, read) if self.method == "gptq" else _from_awq(stem, read)
            state = next((each for each in self.stored if each.startswith(name + _STATE)), None)
            if state:
                return _from_4_bits(name, _state(read(state)), read)
            if f"{stem}.SCB" in self.stored and name.endswith(".weight"):
                return _from_8_bits(stem, read)
        except (ValueError, KeyError, IndexError, BundleError) as error:
            raise ExportError(f"{self.where}: {name} cannot be dequantized: {error}.", _CURE) from error
        return read(name).astype(np.float32, copy=False)

    def _from_gptq(self, stem: str, read: ReadStored) -> Float32:
        g_idx = read(f"{stem}.g_idx") if f"{stem}.g_idx" in self.stored else None
        format = GptqFormat.from_json(self.config, str(self.where))
        columns = _gptq_columns(self.stored, stem)
        qweight, qzeros, scales = (read(f"{stem}.{part}") for part in ("qweight", "qzeros", "scales"))
        return gptq_format.unpack(format, qweight, qzeros, scales, g_idx, columns).dequantize()


def find_quantization(path: Path, config: Mapping[str, Any], stored: Shapes) -> QuantizedBase | None:
    """How a base's weights are quantized, by its configuration; None where they are not.

    Raises:
        ExportError: the method is not supported.
    """
    where, values = path / "config.json", config.get("quantization_config")
    if values is None and (path / "quantize_config.json").is_file():
        where = path / "quantize_config.json"
        values = {"quant_method": "gptq", **read_json(where)}
    if values is None:
        return None
    method = values.get("quant_method", "bitsandbytes" if values.get("load_in_4bit") else None)
    if method not in BASE_QUANTIZATIONS:
        raise ExportError(f"{where}: weights quantized with {method} cannot be read.", _CURE)
    if method == "awq" and (values.get("version", "gemm") != "gemm" or values.get("bits", 4) != 4):
        raise ExportError(f"{where}: AWQ weights can be read only with 4 bits in the version gemm.", _CURE)
    return QuantizedBase(method, dict(values), stored, where)


def _gptq_columns(stored: Shapes, stem: str) -> int:
    """The inputs of a layer: g_idx has one entry for each; without it, 8 or 4 of them are in a word."""
    if f"{stem}.g_idx" in stored:
        return stored[f"{stem}.g_idx"][0]
    words, rows = stored[f"{stem}.qweight"]
    bits = 32 * stored[f"{stem}.qzeros"][1] // rows
    return words * 32 // bits


def _from_awq(stem: str, read: ReadStored) -> Float32:
    q, zeros = (_awq_values(read(f"{stem}.{part}")) for part in ("qweight", "qzeros"))  # [K, N] [G, N]
    scales = read(f"{stem}.scales").astype(np.float32)  # [G, N]
    if scales.shape != zeros.shape or q.shape[1] != zeros.shape[1] or len(q) % len(zeros):
        raise ValueError(f"{list(q.shape)} values, {list(zeros.shape)} zero points, {list(scales.shape)} scales")
    grouped = q.reshape(len(zeros), -1, q.shape[1]).astype(np.float32)
    weight = (grouped - zeros[:, None, :]) * scales[:, None, :]
    return np.ascontiguousarray(weight.reshape(q.shape).T, np.float32)


def _awq_values(words: Array) -> npt.NDArray[np.uint8]:
    """int32 `[A, B]` -> uint8 `[A, 8 B]`, in the order of the outputs."""
    shifts = 4 * np.array(_AWQ_PLACES, np.uint32)
    values = (words.view(np.uint32)[:, :, None] >> shifts) & 15
    return values.astype(np.uint8).reshape(len(words), -1)


def _state(array: Array) -> dict[str, Any]:
    """bitsandbytes keeps JSON in a tensor of bytes."""
    value = json.loads(array.tobytes())
    if not isinstance(value, dict):
        raise ValueError("its quant_state is not a JSON object")
    return value


def _from_4_bits(name: str, state: Mapping[str, Any], read: ReadStored) -> Float32:
    packed = read(name).reshape(-1).view(np.uint8)
    values = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)
    count = math.prod(state["shape"])
    levels = read(f"{name}.quant_map").astype(np.float32)
    absmax = _absmax(name, state, read)
    if len(values) < count or len(levels) != 16 or len(absmax) != -(-count // state["blocksize"]):
        raise ValueError(f"{len(values)} values and {len(absmax)} scales for {state['shape']}")
    weight: Float32 = (levels[values[:count]] * np.repeat(absmax, state["blocksize"])[:count]).reshape(state["shape"])
    return weight


def _absmax(name: str, state: Mapping[str, Any], read: ReadStored) -> Float32:
    """The largest magnitude of each block; with double quantization it is itself in 8 bits, around an offset."""
    absmax = read(f"{name}.absmax")
    if absmax.dtype != np.uint8:
        plain: Float32 = absmax.astype(np.float32)
        return plain
    levels = read(f"{name}.nested_quant_map").astype(np.float32)
    scales = np.repeat(read(f"{name}.nested_absmax").astype(np.float32), state["nested_blocksize"])[: len(absmax)]
    result: Float32 = levels[absmax] * scales + np.float32(state["nested_offset"])
    return result


def _from_8_bits(stem: str, read: ReadStored) -> Float32:
    scales = read(f"{stem}.SCB").astype(np.float32)
    weight: Float32 = read(f"{stem}.weight").astype(np.float32) * (scales[:, None] / np.float32(127))
    return weight
