"""The smaller types of GGUF, through llama.cpp's own quantizer."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import LlamaFileType

from edgereason.errors import ExportError
from edgereason.llama_library import ERROR, listening, llama_library

GGUF_TYPES = {
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "F16": LlamaFileType.MOSTLY_F16,
}
"""The types that can be written, the smallest first, with llama.cpp's number of each."""

Importance = Mapping[str, npt.NDArray[np.float32]]
"""By a tensor's GGUF name, how much each of its input columns matters: float32 `[inputs]`."""


def quantize(
    source: Path, out: Path, gguf_type: str, importance: Importance | None, report: Callable[[int], None]
) -> None:
    """Write a float16 file in a smaller type.

    A matrix whose columns are not a multiple of 256 cannot have a K type or IQ4_XS: llama.cpp gives it the next larger
    one of blocks of 32.

    Args:
        source: The float16 file.
        out: The file to write.
        gguf_type: A name from `GGUF_TYPES`.
        importance: Rounding errors of a column count by this much; all columns alike when None.
        report: Called with the tensors that are done.

    Raises:
        ExportError: the quantizer fails.
    """
    llama_cpp = llama_library()
    complaints = ["no reason given"]

    def follow(level: int, line: str) -> None:
        if level == ERROR:
            complaints.append(line)
        elif match := re.match(r"\[ *(\d+)/ *\d+\]", line):  # the log numbers the tensors: "[  12/ 290] ..."
            report(int(match[1]))

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = int(GGUF_TYPES[gguf_type])
    if importance:
        params.imatrix = _matrix(llama_cpp, importance)
    with listening(follow):
        status = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params))
    if status != 0:
        raise ExportError(
            f"llama.cpp's quantizer could not write {gguf_type}: {complaints[-1]}.",
            "Make sure that the disk has room and that the merged model is whole.",
        )


def _matrix(llama_cpp: Any, importance: Importance) -> Any:
    """The importance matrix as C has it: an array that ends with an entry without a name."""
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries
