"""An ONNX model's weights under Hugging Face's names, read from the initializers of the graph that onnxruntime-genai's
builder wrote (operator `MatMulNBits`: onnxruntime's ContribOperators.md).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edgereason.checkpoints.weights import FUSED
from edgereason.errors import BundleError
from edgereason.export.fidelity.readback.model_files import Float32, Shapes, named_tokens


class OnnxFile:
    """A model in ONNX."""

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self._path = path
        self._shapes = shapes
        try:
            graph = onnx.load(path, load_external_data=False).graph
        except Exception as error:  # protobuf's errors have no common base class with those of files
            raise BundleError(f"{path} cannot be read: {error}", "Export the bundle again.") from error
        self._constants = {each.name: each for each in graph.initializer}
        # The name of a projection, as in /model/layers.0/attn/q_proj/MatMul -> its node
        self._products = {_stem(node.name): node for node in graph.node if node.op_type in ("MatMul", "MatMulNBits")}
        self._embeddings = {_stem(node.name): node for node in graph.node if node.op_type.startswith("Gather")}
        self._makers = {output: node for node in graph.node for output in node.output}
        layers = [int(match[1]) for name in shapes if (match := re.match(r"model\.layers\.(\d+)\.", name))]
        self._final_norm = f"model.layers.{max(layers, default=-1) + 1}.final_norm_layernorm"

    def weight(self, name: str) -> Float32:
        stem, _, kind = name.rpartition(".")
        prefix, _, last = stem.rpartition(".")
        if f"{self._place(stem)}.{kind}" in self._constants:
            return self._array(f"{self._place(stem)}.{kind}").astype(np.float32, copy=False)
        found = self._projection(stem, kind)
        if found is not None:
            return found
        for fused, parts in FUSED.items():
            whole = self._projection(f"{prefix}.{fused}", kind) if last in parts else None
            if whole is not None:
                rows = [self._shapes[f"{prefix}.{part}.{kind}"][0] for part in parts]
                start = sum(rows[: parts.index(last)])
                return whole[start : start + self._shapes[name][0]]
        raise BundleError(f"{self._path} has no weight {name}.", "Export the bundle again.")

    def _place(self, stem: str) -> str:
        """What the builder calls a module."""
        if stem == "model.norm":
            return self._final_norm
        stem = stem.replace(".self_attn.", ".attn.")
        return re.sub(r"attn\.([qk]_norm)$", r"attn.\1.layernorm", stem)

    def _projection(self, stem: str, kind: str) -> Float32 | None:
        """A linear layer's weight `[rows, columns]` or bias `[rows]`; None where there is no such layer."""
        place = self._place(stem)
        if kind == "bias":
            bias = f"{place}.Add.bias"
            return self._array(bias).astype(np.float32, copy=False) if bias in self._constants else None
        if place in self._products:
            node = self._products[place]
            return self._dequantized(node) if node.op_type == "MatMulNBits" else self._array(node.input[1]).T
        return self._embedding(self._embeddings[place]) if place in self._embeddings else None

    def _dequantized(self, node: Any) -> Float32:
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        zeros = node.input[3] if len(node.input) > 3 else ""
        if len(node.input) > 4 and node.input[4]:
            raise BundleError(
                f"{self._path}: {node.name} has reordered inputs, which cannot be verified.", "Export the bundle again."
            )
        weight = self._unpacked(node.input[1], node.input[2], zeros, facts["bits"], facts["block_size"], facts["N"])
        return weight[:, : facts["K"]]

    def _embedding(self, node: Any) -> Float32:
        """The embeddings, which may be the LM head's weight, reshaped or transposed."""
        maker = self._makers.get(node.input[0])
        source = node.input[0] if maker is None or maker.op_type == "Cast" else maker.input[0]
        if node.op_type == "Gather":
            return self._array(source).T if maker and maker.op_type == "Transpose" else self._array(source)
        facts = {attribute.name: attribute.i for attribute in node.attribute}
        zeros = node.input[3] if len(node.input) > 3 else ""
        rows, columns = self._shapes["model.embed_tokens.weight"]
        weight = self._unpacked(source, node.input[2], zeros, facts.get("bits", 4), facts["block_size"], rows)
        return weight[:, :columns]

    def _unpacked(self, data: str, scales: str, zeros: str, bits: int, block: int, rows: int) -> Float32:
        """float32 `[rows, columns padded to blocks]`."""
        q = _values(self._array(data).reshape(rows, -1), bits)
        scale = self._array(scales).reshape(rows, -1).astype(np.float32)
        origin = np.full(scale.shape, 1 << (bits - 1), np.float32)
        if zeros:
            origin = _values(self._array(zeros).reshape(rows, -1), bits)[:, : scale.shape[1]].astype(np.float32)
        blocks = q.reshape(rows, -1, block).astype(np.float32)
        return (scale[:, :, None] * (blocks - origin[:, :, None])).reshape(rows, -1)

    def _array(self, name: str) -> npt.NDArray[Any]:
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Cast":  # stored in another type than it is computed with
            return self._array(maker.input[0]).astype(np.float32)
        if name not in self._constants:
            raise BundleError(f"{self._path} has no constant {name}.", "Export the bundle again.")
        array: npt.NDArray[Any] = numpy_helper.to_array(self._constants[name], base_dir=str(self._path.parent))
        return array

    def end_tokens(self) -> dict[str, frozenset[int]]:
        return named_tokens(self._path.parent / "genai_config.json", "model", "eos_token_id")


def _stem(node: str) -> str:
    """/model/layers.0/attn/q_proj/MatMul_Q4 -> model.layers.0.attn.q_proj"""
    return node.strip("/").rpartition("/")[0].replace("/", ".")


def _values(data: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """uint8 `[rows, bytes]` -> `[rows, values]`; of 4 bits the low half of a byte comes first."""
    if bits == 8:
        return data
    return np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1)
