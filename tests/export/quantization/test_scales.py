"""Weights whose scales float16 cannot hold are refused by their names; all others keep their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from random_model import save_base
from safetensors.torch import load_file, save_file

from edgereason.errors import ExportError
from edgereason.export import export
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.kernels.packing import BFloat16

ROUNDINGS = [Rounding(bits, 32, symmetric) for bits in (4, 8) for symmetric in (True, False)]
LARGEST = float(np.finfo(np.float16).max)


def weight(magnitude: float, rows: int = 20) -> npt.NDArray[np.float32]:
    """Random values of which the largest has this magnitude; 20 rows leave a panel that is not full."""
    values = np.random.default_rng(0).standard_normal((rows, 64))
    return np.asarray(values / np.abs(values).max() * magnitude, np.float32)


def as_bfloat16(values: npt.NDArray[np.float32]) -> BFloat16:
    return BFloat16(torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("magnitude", [1e8, 1e20, 1e30, 3e38])
def test_values_that_are_too_large_are_refused(rounding: Rounding, magnitude: float) -> None:
    for values in (weight(magnitude), as_bfloat16(weight(magnitude))):
        with pytest.raises(ExportError, match=r"here\.weight has values up to .*: float16 cannot hold") as caught:
            rounding.quantize(values, "here.weight")
        assert "--bits 32" in caught.value.cure


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("magnitude", [1e-8, 1e-20, 1e-38])
def test_a_weight_that_would_be_zero_is_refused(rounding: Rounding, magnitude: float) -> None:
    for values in (weight(magnitude), as_bfloat16(weight(magnitude))):
        with pytest.raises(ExportError, match=r"here\.weight has no value beyond .* all would be zero"):
            rounding.quantize(values, "here.weight")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.5, 0.95])
def test_all_others_are_rounded_to_their_levels(rounding: Rounding, share: float) -> None:
    """As long as the largest levels of float16 reach."""
    values = weight(share * LARGEST * (1 << (rounding.bits - 1)))
    error = np.abs(rounding.quantize(values, "here.weight").dequantize() - values).max()
    assert error < 0.2 * np.abs(values).max()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_zeros_and_small_groups_stay(rounding: Rounding) -> None:
    assert not rounding.quantize(np.zeros((20, 64), np.float32), "here.weight").dequantize().any()
    values = weight(1.0)
    values[3], values[5, 32:] = 0, 1e-12
    found = rounding.quantize(values, "here.weight").dequantize()
    assert not found[3].any()
    assert not found[5, 32:].any()


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("magnitude", [1e-12, 1e9])
def test_an_export_names_the_weight(trio: dict[str, Path], tmp_path: Path, method: str, magnitude: float) -> None:
    save_base(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] *= magnitude
    save_file(tensors, file, {"format": "pt"})
    options = {"method": method, "layout": "shared", "verify": False}
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.down_proj\.weight has"):
        export(tmp_path / "base", trio["guidance"], trio["answer"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
