"""edgereason's writers, from a checkpoint without an adapter: the same work as the peers'."""

from __future__ import annotations

import json
from pathlib import Path

from edgereason.export.formats.native_writer import write_native
from edgereason.export.formats.onnx_writer import write_onnx
from edgereason.export.gguf import write_gguf
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.materialize import materialize
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.round_to_nearest import Rounding


def native(checkpoint: Path, out: Path) -> None:
    """int4, groups of 32, rounded to nearest."""
    config = json.loads((checkpoint / "config.json").read_text())
    write_native(out, config, merge(open_base(checkpoint)), Rounding(4))


def q4_0(checkpoint: Path, out: Path) -> None:
    """GGUF, Q4_0, without an importance matrix: llama-quantize has none of its own either."""
    write_gguf(merge(open_base(checkpoint)), out / "model.gguf", "Q4_0")


def q4_k_m(checkpoint: Path, out: Path) -> None:
    """GGUF, Q4_K_M."""
    write_gguf(merge(open_base(checkpoint)), out / "model.gguf", "Q4_K_M")


def onnx(checkpoint: Path, out: Path) -> None:
    """int4, blocks of 32; the merged model is written for the builder, and removed."""
    merged = out / "merged"

    def merge_into() -> Path:
        materialize(merge(open_base(checkpoint)), merged)
        return merged

    write_onnx(merge_into, out, 4)
    for file in merged.iterdir():
        file.unlink()
    merged.rmdir()
