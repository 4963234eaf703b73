"""llama.cpp's own way: `convert_hf_to_gguf.py`, then its quantizer, through the C interface of llama-cpp-python.

EDGEREASON_CONVERTER names the converter, which comes with the source of llama-cpp-python (`make conformance` has it).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import llama_cpp

CONVERTER = os.environ.get("EDGEREASON_CONVERTER", "")
if not Path(CONVERTER).is_file():
    raise ImportError("convert_hf_to_gguf.py, which EDGEREASON_CONVERTER has to name")
# The converter knows tokenizers by a sum over their ids, and so none of a checkpoint that was made up.
_RUN = (
    "import sys, runpy; from pathlib import Path; root = str(Path(sys.argv[1]).parent);"
    "sys.path[:0] = [root, root + '/gguf-py']; import conversion.base as base;"
    "base.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2';"
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def q4_0(checkpoint: Path, out: Path) -> None:
    """Q4_0."""
    _convert(checkpoint, out, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)


def q4_k_m(checkpoint: Path, out: Path) -> None:
    """Q4_K_M."""
    _convert(checkpoint, out, llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M)


def _convert(checkpoint: Path, out: Path, kind: int) -> None:
    half = out / "f16.gguf"
    command = [sys.executable, "-c", _RUN, CONVERTER, checkpoint, "--outtype", "f16", "--outfile", half]
    subprocess.run(command, check=True, capture_output=True)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = kind
    if llama_cpp.llama_model_quantize(os.fsencode(half), os.fsencode(out / "model.gguf"), ctypes.byref(params)) != 0:
        raise RuntimeError("llama.cpp's quantizer failed")
    half.unlink()
