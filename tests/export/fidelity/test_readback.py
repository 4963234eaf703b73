"""Weights read back from a bundle's files: those that transformers has, rounded as the format says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, save_family
from gguf_models import MODELS, save_gguf_model
from merged_model import save_merged
from numpy.testing import assert_allclose
from random_model import save_tokenizer

from edgereason.errors import BundleError
from edgereason.export.fidelity.readback.model_files import open_model_file
from edgereason.export.fidelity.references import in_16_bits
from edgereason.export.formats.native_writer import write_native
from edgereason.export.formats.onnx_writer import write_onnx
from edgereason.export.gguf import write_gguf
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.round_to_nearest import Rounding


def parameters(model: Any) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}


def read_all(format: str, directory: Path, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    stored = open_model_file(format, directory, {name: array.shape for name, array in expected.items()})
    return {name: stored.weight(name) for name in expected}


def close(found: np.ndarray, expected: np.ndarray) -> float:
    """The error as a share of what was expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("bits", "most"), [(16, 0.0), (8, 0.01), (4, 0.12)])
def test_native(name: str, bits: int, most: float, tmp_path: Path) -> None:
    expected = parameters(save_family(name, tmp_path))
    save_tokenizer(tmp_path)
    weights = merge(open_base(tmp_path))
    write_native(tmp_path / "native", weights.config, weights, Rounding(bits))
    for parameter, found in read_all("native", tmp_path / "native", expected).items():
        if bits == 16 or found.ndim == 1:
            np.testing.assert_array_equal(found, in_16_bits(expected[parameter]))
        else:
            assert close(found, expected[parameter]) < most, parameter


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("gguf_type", "most"), [("F16", 0.0), ("Q8_0", 0.01), ("Q4_0", 0.14)])
def test_gguf(name: str, gguf_type: str, most: float, tmp_path: Path) -> None:
    expected = parameters(save_gguf_model(name, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(tmp_path, tmp_path / "model.gguf", gguf_type)
    for parameter, found in read_all("gguf", tmp_path, expected).items():
        if gguf_type == "F16" or found.ndim == 1:
            # Gemma's norms are stored with one added.
            assert_allclose(found, in_16_bits(expected[parameter]), rtol=0, atol=2e-7, err_msg=parameter)
        else:
            assert close(found, expected[parameter]) < most, parameter


@pytest.mark.parametrize(
    ("bits", "most", "tied"),
    [(32, 0.0, True), (32, 0.0, False), (16, 0.0, True), (16, 0.0, False), (8, 0.01, True), (4, 0.14, False)],
)
def test_onnx(bits: int, most: float, tied: bool, tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    expected = parameters(save_merged(tmp_path, tie_word_embeddings=tied, attention_bias=True))
    write_onnx(tmp_path, tmp_path / "onnx", bits)
    for parameter, found in read_all("onnx", tmp_path / "onnx", expected).items():
        exact = in_16_bits(expected[parameter]) if bits == 16 else expected[parameter]
        assert close(found, exact) <= most, parameter


def test_a_weight_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = save_merged(tmp_path)
    weights = merge(open_base(tmp_path))
    write_native(tmp_path / "native", weights.config, weights, Rounding(8))
    shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
    stored = open_model_file("native", tmp_path / "native", {**shapes, "model.layers.9.extra.weight": (3, 3)})
    with pytest.raises(BundleError, match=r"has no weight model\.layers\.9\.extra\.weight"):
        stored.weight("model.layers.9.extra.weight")
