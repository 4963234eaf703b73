"""Weights of an ONNX graph stored in float16 and computed in float32, which halves the file.

onnxruntime's CPU kernels have no float16 attention, and compute other float16 operations in float32 with a conversion
around each. Here the graph stays float32, with a `Cast` after each stored matrix, which onnxruntime evaluates when it
loads the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgereason.errors import ExportError

_READERS = {"MatMul", "Gather", "Transpose", "Reshape"}
"""The operations that read weights; what others read, such as RoPE's sines and cosines, stays as it is."""


def store_in_half(model: Any, path: Path) -> None:
    """Save a graph of float32 with its matrices in float16.

    Args:
        model: An onnx.ModelProto as the builder writes it; changed.
        path: The new file. Its external data, `model.onnx.data` beside it, is replaced.

    Raises:
        ExportError: a weight has values beyond float16.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    onnx.load_external_data_for_model(model, str(path.parent))
    data = path.with_name("model.onnx.data")
    data.unlink()
    graph = model.graph
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in graph.initializer:
        matrix = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2
        if not matrix or not readers.get(tensor.name, set()) <= _READERS:
            continue
        name, stored = tensor.name, f"{tensor.name}/float16"
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(f"{name} has values beyond float16.", "Export with --bits 32, which stores float32.")
        tensor.CopyFrom(numpy_helper.from_array(half, stored))
        graph.node.insert(0, helper.make_node("Cast", [stored], [name], f"{name}/Cast", to=TensorProto.FLOAT))
    onnx.save_model(model, str(path), save_as_external_data=True, location=data.name)
