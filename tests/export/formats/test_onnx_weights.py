"""ONNX in all its forms: block sizes, zero points, and weights that are carried over as they were rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from families import SIZES, save_family
from gptq_checkpoint import float_logits
from merged_model import random_ids, reference_logits, relative_error, save_merged
from random_model import save_tokenizer

from edgereason.engines.onnx import OnnxEngine
from edgereason.errors import ExportError, UsageError
from edgereason.export import export
from edgereason.export.formats.onnx_writer import write_onnx
from edgereason.export.settings import Settings
from edgereason.kernels import cpu

Trio = dict[str, Path]


def engine_logits(directory: Path, ids: list[int]) -> Any:
    return OnnxEngine(directory, 1).session(len(ids)).advance(ids, every=True)


def products(directory: Path) -> list[Any]:
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    return [node for node in graph.node if node.op_type == "MatMulNBits"]


@pytest.mark.parametrize(("bits", "block", "symmetric"), [(4, 64, True), (4, 128, False), (8, 64, False)])
def test_weights_rounded_to_nearest_have_the_blocks_and_zero_points_that_were_asked_for(
    bits: int, block: int, symmetric: bool, tmp_path: Path
) -> None:
    model = save_merged(tmp_path / "in")
    (tmp_path / "out").mkdir()
    stored = write_onnx(tmp_path / "in", tmp_path / "out", bits, block_size=block, symmetric=symmetric)
    assert stored["block_size"] == block
    for node in products(tmp_path / "out"):
        attributes = {each.name: each.i for each in node.attribute}
        assert attributes["block_size"] == block
        assert (len(node.input) > 3) == (not symmetric)
    ids = random_ids(40, 300)
    error = relative_error(engine_logits(tmp_path / "out", ids), reference_logits(model, ids))
    assert error < {4: 0.3, 8: 0.03}[bits]


@pytest.mark.parametrize("family", ["llama", "phi3 with a window"])
@pytest.mark.parametrize(("bits", "block", "symmetric"), [(4, 32, True), (4, 64, False), (8, 128, True)])
def test_onnxruntime_computes_with_the_weights_that_are_carried_over(
    family: str, bits: int, block: int, symmetric: bool, tmp_path: Path
) -> None:
    """They are other weights than those that the builder reads: what it rounds itself would be found out."""
    changes = {"sliding_window": None, "original_max_position_embeddings": SIZES["max_position_embeddings"]}
    model = save_family(family, tmp_path / "in", **(changes if "phi3" in family else {}))
    save_tokenizer(tmp_path / "in")
    layers = {name: each for name, each in model.model.named_modules(prefix="model") if is_linear(each)}
    generator = np.random.default_rng(0)
    quantized = {
        name: cpu.quantize(
            generator.standard_normal(tuple(layer.weight.shape), np.float32) * np.float32(0.1), bits, block, symmetric
        )
        for name, layer in layers.items()
    }
    (tmp_path / "out").mkdir()
    write_onnx(tmp_path / "in", tmp_path / "out", bits, block_size=block, symmetric=symmetric, quantized=quantized)
    ids = random_ids(40, 300)
    before = reference_logits(model, ids)
    for name, layer in layers.items():
        layer.weight.data = torch.from_numpy(quantized[name].dequantize())
    expected = reference_logits(model, ids)
    assert relative_error(before, expected) > 0.3
    assert relative_error(engine_logits(tmp_path / "out", ids), expected) < 0.04  # activations and head of 8 bits


def is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear)


def test_gptq_weights_are_those_of_the_checkpoint_format(trio: Trio, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Tom has 12 apples and buys 30 more. " * 40)
    inputs = [trio[name] for name in ("base", "guidance", "answer")]
    options: dict[str, Any] = {"method": "gptq", "calibration_text": text, "verify": False, "symmetric": False}
    for format in ("onnx", "gptq"):
        bundle = export(*inputs, tmp_path / format, format=format, **options)
        assert bundle.quantization["method"] == "gptq"
    ids = random_ids(40, 300)
    expected = float_logits(tmp_path / "gptq/answer", ids)
    assert relative_error(engine_logits(tmp_path / "onnx/answer", ids), expected) < 4e-2


def test_weights_without_a_place_are_named_and_leave_nothing(tmp_path: Path) -> None:
    save_merged(tmp_path / "in")
    (tmp_path / "out").mkdir()
    weight = cpu.quantize(np.ones((64, 64), np.float32), 4)
    name = "model.layers.0.self_attn.o_proj"
    for quantized, reason in (
        ({"model.layers.9.self_attn.o_proj": weight}, r"no product for model\.layers\.9"),
        ({name: cpu.quantize(np.ones((64, 64), np.float32), 8)}, f"{name} does not fit"),
    ):
        with pytest.raises(ExportError, match=reason):
            write_onnx(tmp_path / "in", tmp_path / "out", 4, quantized=quantized)
        assert list((tmp_path / "out").iterdir()) == []


def test_what_onnx_has_no_blocks_for_is_refused_at_once() -> None:
    for options, reason in (
        ({"group_size": 96}, "group-size is 96"),
        ({"group_size": -1}, "group-size is -1"),
        ({"method": "gptq", "static_groups": False}, "groups of permuted inputs"),
        ({"method": "gptq", "bits": 16}, "method gptq"),
    ):
        with pytest.raises(UsageError, match=reason):
            Settings.of({"format": "onnx", **options})
