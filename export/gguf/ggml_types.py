"""GGUF's quantized types: llama.cpp itself chooses the type of each tensor, and quantizes."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType, LlamaFileType
from torch import Tensor

from edgereason.checkpoints.llama_library import ERROR, listening, llama_library
from edgereason.errors import ExportError

GGML_FILE_TYPES = {
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "F16": LlamaFileType.MOSTLY_F16,
}
"""llama.cpp's file type by name, the smallest first."""

UInt8 = npt.NDArray[np.uint8]
_CHUNK = 1 << 18
"""Values that are quantized at a time: few enough to stay in a core's cache."""
_ONE_THREAD = 1 << 15
"""Values from which on torch would use threads beside ours, which wait by spinning (at::internal::GRAIN_SIZE)."""

Importance = Mapping[str, npt.NDArray[np.float32]]
"""By a tensor's GGUF name, how much each of its input columns matters: float32 `[inputs]`."""


def choose_types(sketch: Path, gguf_type: str, importance: Importance | None) -> dict[str, GGMLQuantizationType]:
    """The type that llama.cpp's quantizer gives each tensor, in the order in which it writes them: a dry run of it.

    A matrix whose columns are not a multiple of 256 cannot have a K type or IQ4_XS: it gets the next larger one of
    blocks of 32.

    Args:
        sketch: A float16 file. Only what it says of the model and its tensors is read, no values.
        gguf_type: A name from `GGML_FILE_TYPES`.
        importance: As in `quantize_rows`, by tensor: some types are others with it.

    Returns:
        By name; those that stay as they are have the type that the file says.

    Raises:
        ExportError: the quantizer fails, or is too old to run dry.
    """
    llama_cpp = llama_library()
    params = llama_cpp.llama_model_quantize_default_params()
    if not hasattr(params, "dry_run"):
        raise ExportError(
            f"llama-cpp-python {llama_cpp.__version__} cannot say which types its quantizer would choose.",
            'Update it: pip install --upgrade "edgereason[export]"',
        )
    params.ftype = int(GGML_FILE_TYPES[gguf_type])
    params.dry_run = True
    if importance:
        params.imatrix = _matrix(llama_cpp, importance)
    chosen: dict[str, GGMLQuantizationType] = {}
    complaints = ["no reason given"]

    def follow(level: int, line: str) -> None:
        # "[  12/ 290] blk.0.ffn_up.weight - [ 896, 4864, 1, 1], type = f16, ", "size = 8.3 MiB -> 2.3 MiB (q4_0)"
        if level == ERROR:
            complaints.append(line)
        elif match := re.match(r"\[ *\d+/ *\d+\] (\S+) +- \[.*type = +(\w+)", line):
            chosen[match[1]] = GGMLQuantizationType[match[2].upper()]
        elif chosen and (match := re.match(r"size = .* -> .*\((\w+)\)$", line)):
            chosen[next(reversed(chosen))] = GGMLQuantizationType[match[1].upper()]

    with listening(follow):
        status = llama_cpp.llama_model_quantize(os.fsencode(sketch), b"", ctypes.byref(params))
    if status != 0 or not chosen:
        raise ExportError(
            f"llama.cpp's quantizer could not choose types for {gguf_type}: {complaints[-1]}.",
            "Make sure that the merged model is complete.",
        )
    return chosen


def quantize_rows(matrix: Tensor, kind: GGMLQuantizationType, importance: npt.NDArray[np.float32] | None) -> UInt8:
    """Quantize a matrix as llama.cpp's quantizer does when it is stored in float16.

    Args:
        matrix: `[rows, columns]`, in 16 or 32 bits.
        kind: The type to store it in; `columns` is a multiple of its block size.
        importance: float32 `[columns]`: the weight of each column's squared error. None: equal weights.

    Returns:
        uint8 `[rows, bytes of a row]`.

    Raises:
        ValueError: a value is not finite, or too large for float16.
    """
    rows, columns = matrix.shape
    out = np.empty(gguf.quants.quant_shape_to_byte_shape((rows, columns), kind), np.uint8)
    step = max(1, _CHUNK // columns)
    weights = None if importance is None else importance.ctypes.data_as(ctypes.c_void_p)

    def quantize_chunk(first: int) -> None:
        values = _through_float16(matrix[first : first + step])
        count = len(values)
        _quantize_chunk()(
            int(kind), ctypes.c_void_p(values.data_ptr()), out[first:].ctypes.data, 0, count, columns, weights
        )

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # the library lets others run while it computes
        list(threads.map(quantize_chunk, range(0, rows, step)))
    return out


def _through_float16(rows: Tensor) -> Tensor:
    """Rows in float32 with values of float16, by parts that torch does not hand to threads of its own."""
    values = torch.empty(rows.shape, dtype=torch.float32)
    step = max(1, (_ONE_THREAD - 1) // rows.shape[1])
    for part, to in zip(torch.split(rows, step), torch.split(values, step), strict=True):
        to.copy_(part.to(torch.float32).to(torch.float16))
    if not np.isfinite(values.numpy()).all():  # torch takes ten times as long
        raise ValueError("values are not finite, or too large for float16")
    return values


@cache
def _quantize_chunk() -> Any:
    """`ggml_quantize_chunk` of ggml.h: rounds rows of one matrix."""
    llama_library()
    from llama_cpp import llama_cpp

    library = llama_cpp._lib if os.name != "nt" else ctypes.CDLL("ggml-base")  # elsewhere it finds what it depends on
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
    return function


def _matrix(llama_cpp: Any, importance: Importance) -> Any:
    """The importance matrix for C: an array that ends with an entry without a name."""
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries
