"""Replacing the weights that an ONNX graph's builder has quantized by weights that are already quantized.

`MatMulNBits` (onnxruntime's ContribOperators.md) has a weight `[N, K]` as uint8 `[N, blocks, block * bits / 8]`, of
4 bits the low half of a byte first; scales `[N * blocks]` in the type of the activations; and, unless they are in the
middle, zero points uint8, of 4 bits two blocks of a row in a byte. Sizes do not depend on the quantizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.checkpoints.weights import FUSED
from edgereason.errors import ExportError
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.kernels.packing import PackedWeight

UInt8 = npt.NDArray[np.uint8]


def replace_weights(graph: Any, directory: Path, quantized: Mapping[str, PackedWeight]) -> None:
    """Replace the weights of a graph's products.

    Args:
        graph: An onnx.GraphProto as the builder writes it; its tensors inside are changed.
        directory: The directory of its external data, which is overwritten.
        quantized: All linear layers by their names in the checkpoint, with the graph's bits and block size, and inputs
            in the model's order.

    Raises:
        ExportError: a layer has no place in the graph, or another shape, group size or order there.
    """
    constants = {each.name: each for each in graph.initializer}
    left = set(quantized)
    for node in graph.node:
        names = _sources(node.name, quantized) if node.op_type == "MatMulNBits" else []
        if not names:
            continue
        weight = _product(node.name, {name: QuantizedLinear.from_packed(quantized[name]) for name in names})
        facts = {each.name: each.i for each in node.attribute}
        block = facts["block_size"]
        found = (weight.bits, weight.group_size, weight.rows, weight.columns)
        if found != (facts["bits"], min(block, facts["K"]), facts["N"], facts["K"]) or not weight.ordered:
            raise ExportError(f"{names[0]} does not fit {node.name} in the ONNX graph.", "Export in another format.")
        for name, array in zip(node.input[1:], _arrays(weight, block, len(node.input) > 3), strict=False):
            _replace(constants[name], array, directory)
        left -= set(names)
    if left:
        raise ExportError(f"The ONNX graph has no product for {min(left)}.", "Export in another format.")


def _sources(node: str, quantized: Mapping[str, PackedWeight]) -> list[str]:
    """The layers of a product, from `/model/layers.0/attn/qkv_proj/MatMul_Q4`."""
    stem = node.strip("/").rpartition("/")[0].replace("/", ".").replace(".attn.", ".self_attn.")
    prefix, _, last = stem.rpartition(".")
    if stem in quantized:
        return [stem]
    whole = next((f"{prefix}.{name}" for name, parts in FUSED.items() if last in parts), "")
    if whole in quantized:
        return [whole]
    return [name for part in FUSED.get(last, ()) if (name := f"{prefix}.{part}") in quantized]


def _product(node: str, layers: dict[str, QuantizedLinear]) -> QuantizedLinear:
    """The weight of a product: all rows of its layers, or the half that it has of a `gate_up_proj`."""
    weights = list(layers.values())
    first, halves = weights[0], FUSED["gate_up_proj"]
    last = node.rpartition("/")[0].rpartition("/")[2]
    if last in halves and next(iter(layers)).endswith(".gate_up_proj"):
        return first.split([first.rows // 2] * 2)[halves.index(last)]
    zeros = None if first.zeros is None else np.concatenate([each.zero_points for each in weights])
    q, scales = (np.concatenate([getattr(each, part) for each in weights]) for part in ("q", "scales"))
    return QuantizedLinear(q, scales, zeros, first.g_idx, first.group_size, first.bits)


def _arrays(weight: QuantizedLinear, block: int, with_zeros: bool) -> Iterator[npt.NDArray[Any]]:
    """Weight, scales and zero points as the operator has them."""
    middle = 1 << (weight.bits - 1)
    padding = weight.scales.shape[1] * block - weight.columns
    yield _in_bytes(np.pad(weight.q, ((0, 0), (0, padding)), constant_values=middle), weight.bits)
    yield weight.scales
    if with_zeros:
        zeros = weight.zero_points
        odd = zeros.shape[1] % 2 if weight.bits == 4 else 0
        yield _in_bytes(np.pad(zeros, ((0, 0), (0, odd)), constant_values=middle), weight.bits)


def _in_bytes(values: UInt8, bits: int) -> UInt8:
    return values if bits == 8 else values[:, 0::2] | values[:, 1::2] << np.uint8(4)


def _replace(tensor: Any, array: npt.NDArray[Any], directory: Path) -> None:
    """Replace a tensor's values in its own type and place: in the graph or in the data file."""
    from onnx import TensorProto, helper
    from onnx.external_data_helper import ExternalDataInfo

    data = array.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).tobytes()
    if tensor.data_location != TensorProto.EXTERNAL:
        room, tensor.raw_data = len(tensor.raw_data), data
    else:
        place = ExternalDataInfo(tensor)
        room = place.length
        with (directory / place.location).open("r+b") as file:
            file.seek(place.offset or 0)
            file.write(data)
    assert len(data) == room, tensor.name
