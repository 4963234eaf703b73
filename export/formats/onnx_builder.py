"""onnxruntime-genai's model builder as a program of its own: `python -m edgereason.export.formats.onnx_builder`.

It imports the builder's libraries at once; the job is a line of JSON on standard input, when the model is ready.

The builder hands the whole float32 model to onnxruntime's quantizer as one message, which takes longer than rounding it
and the memory of two more copies. Here the same function quantizes each weight alone, so that the bytes are the same.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.export.prefetch import prefetch


def main() -> None:
    from onnxruntime_genai.models import builder

    line = sys.stdin.readline()
    if not line:  # the program that started this one has failed
        return
    model_dir, out, precision, options = json.loads(line)
    for kind in builder.LlamaModel.__mro__:  # the class of all its models has it
        if "to_nbits" in vars(kind):
            quantize_each_weight(kind)
    cache = str(Path(out) / "cache")
    extra = builder.parse_extra_options(model_dir, model_dir, out, precision, "cpu", cache, options)
    builder.create_model(model_dir, model_dir, out, precision, "cpu", cache, **extra)
    shutil.rmtree(cache, ignore_errors=True)


def quantize_each_weight(kind: Any) -> None:
    """Let the builder's models quantize their weights one by one, where they use onnxruntime's default quantizer."""
    to_nbits = kind.to_nbits

    def quantize_weights(model: Any) -> Any:
        attributes = model.quant_attrs
        plain = getattr(model, "quantization_algo", "default") == "default" and not attributes["use_qdq"]
        graph, left_out = model.model.graph, attributes["nodes_to_exclude"]
        chosen = [
            node for node in graph if node.op_type in attributes["op_types_to_quantize"] and node.name not in left_out
        ]
        products = [node for node in chosen if node.op_type == "MatMul"]
        # Embeddings are quantized in another way; those that are tied to the LM head have no weight of their own.
        if not plain or any(_is_embedding(node) for node in chosen):
            return to_nbits(model)
        special = getattr(model, "int4_customized_weight_config", None) or {}
        with prefetch((node, _matrix(node)) for node in products) as matrices:
            for done, (node, matrix) in enumerate(matrices, start=1):
                if matrix is not None:
                    _round(graph, node, matrix, special.get(node.name, attributes)["bits"], attributes)
                print(f"Quantized {done} of {len(products)} weights")
        return model.model

    kind.to_nbits = quantize_weights


def _is_embedding(node: Any) -> bool:
    table = node.inputs[0].const_value if node.op_type == "Gather" else None
    return table is not None and len(table.shape) == 2


def _matrix(node: Any) -> npt.NDArray[np.float32] | None:
    """The constant operand of a product, `[K, N]`; None where it is no constant matrix."""
    import torch

    weight = node.inputs[1].const_value
    if weight is None or len(weight.shape) != 2:
        return None
    matrix: npt.NDArray[np.float32] = torch.from_numpy(weight.numpy()).contiguous().numpy()  # numpy transposes slower
    return matrix


def _round(graph: Any, node: Any, matrix: npt.NDArray[np.float32], bits: int, attributes: dict[str, Any]) -> None:
    """Turn a product with a constant matrix into `MatMulNBits` (onnxruntime's ContribOperators.md)."""
    import onnx_ir as ir
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantizer,
    )

    weight = node.inputs[1]
    size, symmetric, level = (attributes[key] for key in ("matmul_block_size", "is_symmetric", "accuracy_level"))
    config = DefaultWeightOnlyQuantConfig(block_size=size, is_symmetric=symmetric, bits=bits)
    q, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(matrix)
    parts = {f"_Q{bits}": q, "_scales": scales, **({} if symmetric else {"_zero_points": zeros})}
    node.resize_inputs(1 + len(parts))
    for place, (ending, array) in enumerate(parts.items(), start=1):
        tensor = ir.Tensor(array, name=weight.name + ending)
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
        node.replace_input_with(place, value)
    if not weight.uses():
        graph.initializers.pop(weight.name)
    node.op_type, node.domain, node.name = "MatMulNBits", "com.microsoft", f"{node.name}_Q{bits}"
    numbers = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": bits, "block_size": size}
    if level:
        numbers["accuracy_level"] = level
    for key, number in numbers.items():
        node.attributes[key] = ir.AttrInt64(key, number)


if __name__ == "__main__":
    main()
