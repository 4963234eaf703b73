"""GPTQ checkpoints: unpacked bit for bit as their format says, and with the logits of the library that wrote them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gptq_checkpoint import dequantized, float_logits, minus_one, save_gptq, to_words
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_model import random_ids, relative_error, save_merged
from safetensors.torch import load_file, save_file
from shared_data import shared

from edgereason import load_model
from edgereason.checkpoints import gptq_format
from edgereason.checkpoints.gptq_format import GptqFormat
from edgereason.checkpoints.weights import FUSED, Weights
from edgereason.errors import BundleError
from edgereason.kernels.packing import PackedWeight

Edit = Callable[[torch.Tensor], torch.Tensor]

# Of the logits' range. Activations have 8 bits per row and group of 32: an error of about 0.4% in each product, which
# adds up over the layers. That the weights are exactly right is tested apart.
TOLERANCE = 4e-2


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    bits, size = draw(st.sampled_from([4, 8])), draw(st.sampled_from([32, 64, 128, None]))
    columns = draw(st.integers(1, 6)) * (size or 32) - draw(st.sampled_from([0, 8]))
    rows = 8 * draw(st.integers(1, 6))
    groups = 1 if size is None else -(-columns // size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    symmetric = draw(st.booleans())
    g_idx = np.arange(columns) // (size or columns)
    return {
        "bits": bits,
        "size": size,
        "v1": draw(st.booleans()),
        "q": rng.integers(0, 2**bits, (columns, rows)),
        "zeros": np.full((groups, rows), 2 ** (bits - 1)) if symmetric else rng.integers(0, 2**bits, (groups, rows)),
        "scales": (rng.standard_normal((groups, rows)) * 0.01).astype(np.float16),
        "g_idx": rng.permutation(g_idx) if draw(st.booleans()) else g_idx,
        "keep_g_idx": draw(st.booleans()),
    }


@settings(deadline=None, max_examples=60)
@given(layers())
def test_a_layer_has_the_weights_that_its_format_says(layer: dict[str, Any]) -> None:
    bits, g_idx = layer["bits"], layer["g_idx"]
    qzeros = to_words(layer["zeros"], bits)
    ordered = bool((np.diff(g_idx) >= 0).all())
    weight = gptq_format.unpack(
        GptqFormat(layer["size"], layer["v1"]),
        np.ascontiguousarray(to_words(layer["q"].T, bits).T),
        minus_one(qzeros, bits) if layer["v1"] else qzeros,
        layer["scales"],
        None if ordered and not layer["keep_g_idx"] else g_idx.astype(np.int32),
        len(g_idx),
    )
    expected = layer["scales"].astype(np.float32)[g_idx] * (layer["q"] - layer["zeros"][g_idx])
    np.testing.assert_array_equal(weight.dequantize(), expected.T.astype(np.float32))
    assert (weight.order is None) == ordered
    assert (weight.zeros is None) == bool((layer["zeros"] == 2 ** (bits - 1)).all())


@pytest.mark.parametrize("name", ["llama-sym-g32", "qwen2-asym-actorder-g64"])
def test_a_checkpoint_of_gptqmodel_has_the_logits_that_gptqmodel_computes(name: str) -> None:
    directory = shared(f"conformance/gptq/{name}")
    reference = np.load(directory / "reference.npz")
    ids, expected = reference["input_ids"][0].tolist(), reference["logits"][0]
    exact = float_logits(directory, ids)
    assert relative_error(exact, expected) < 5e-3  # it computes in 16 bits
    with load_model(directory) as model:
        found = model.logits(ids)
    assert relative_error(found, exact) < 1.5e-2
    assert relative_error(found, expected) < 1.5e-2
    ranked = np.sort(exact, axis=1)
    sure = ranked[:, -1] - ranked[:, -2] > 1.5e-2 * np.ptp(exact)
    assert sure.sum() > 10
    np.testing.assert_array_equal(found.argmax(axis=1)[sure], expected.argmax(axis=1)[sure])


VARIANTS: dict[str, dict[str, Any]] = {
    "act-order": {},
    "version 2": {"v1": False},
    "symmetric": {"symmetric": True, "act_order": False},
    "8 bits": {"bits": 8, "group_size": 64},
    "8 bits, symmetric": {"bits": 8, "symmetric": True},
    "one group": {"group_size": -1},
    "a quantized head": {"lm_head": True},
    "one group of 8 bits": {"group_size": -1, "bits": 8, "symmetric": True},
}


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quantized") / "model"
    save_gptq(source, directory)
    return directory


@pytest.fixture
def checkpoint(quantized: Path, tmp_path: Path) -> Path:
    """An act-ordered checkpoint of 4 bits, for changing it."""
    return Path(shutil.copytree(quantized, tmp_path / "model"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("float")
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 192}
    save_merged(directory, **sizes, vocab_size=320, tie_word_embeddings=False)
    return directory


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_its_dequantized_weights_and_their_logits(variant: str, source: Path, tmp_path: Path) -> None:
    save_gptq(source, tmp_path / "model", **VARIANTS[variant])
    weights, expected = Weights(tmp_path / "model"), dequantized(tmp_path / "model")
    for part, rows, columns in (("self_attn.qkv_proj", (128, 64, 64), 128), ("mlp.gate_up_proj", (192, 192), 128)):
        found = weights.linear(f"model.layers.1.{part}", rows, columns)
        assert isinstance(found, PackedWeight)
        names = [f"model.layers.1.{part.split('.')[0]}.{name}.weight" for name in FUSED[part.split(".")[1]]]
        np.testing.assert_array_equal(found.dequantize(), np.concatenate([expected[name] for name in names]))
    ids = random_ids(40, 300)
    with load_model(tmp_path / "model") as model:
        assert relative_error(model.logits(ids), float_logits(tmp_path / "model", ids)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scales_may_be_of_other_float_types(checkpoint: Path, dtype: torch.dtype) -> None:
    name = "model.layers.0.mlp.down_proj"
    change(checkpoint, f"{name}.scales", lambda scales: scales.to(dtype))
    found = Weights(checkpoint).linear(name, 128, 192)
    assert isinstance(found, PackedWeight)
    np.testing.assert_array_equal(found.dequantize(), dequantized(checkpoint)[f"{name}.weight"])


def test_the_configuration_may_lie_in_a_file_of_its_own(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "model.safetensors").rename(checkpoint / "gptq_model-4bit-32g.safetensors")
    with load_model(checkpoint) as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()


def change(directory: Path, name: str, edit: Edit) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors[name] = edit(tensors[name])
    save_file(tensors, directory / "model.safetensors")


def test_projections_whose_inputs_are_ordered_differently_are_products_of_their_own(checkpoint: Path) -> None:
    ids = random_ids(30, 300)
    before = float_logits(checkpoint, ids)
    swapped = torch.tensor([1, 0, 2, 3])  # groups 0 and 1 change their names, which changes the order and nothing else
    stem = "model.layers.0.self_attn.q_proj"
    for part in ("qzeros", "scales"):
        change(checkpoint, f"{stem}.{part}", lambda rows: rows[swapped].contiguous())
    change(checkpoint, f"{stem}.g_idx", lambda groups: swapped[groups.long()].int())
    np.testing.assert_allclose(float_logits(checkpoint, ids), before, rtol=1e-4, atol=1e-4)
    with load_model(checkpoint) as model:
        assert relative_error(model.logits(ids), before) < TOLERANCE


@pytest.mark.parametrize(
    ("part", "edit", "what"),
    [
        ("qweight", lambda t: t[:-1].contiguous(), "q_proj is damaged"),
        ("qweight", lambda t: t[:, :-8].contiguous(), "q_proj.qweight is"),
        ("qweight", lambda t: t.float(), "of type F32"),
        ("qzeros", lambda t: t[:-1].contiguous(), "q_proj is damaged"),
        ("scales", lambda t: t[:-1].contiguous(), "q_proj is damaged"),
        ("scales", lambda t: t * float("nan"), "not finite"),
        ("scales", lambda t: t.float() * 1e9, "beyond float16"),
        ("g_idx", lambda t: t[:-1].contiguous(), "g_idx"),
        ("g_idx", lambda t: t - 1, "g_idx"),
        ("g_idx", lambda t: t + 1, "g_idx"),
        ("g_idx", lambda t: torch.cat([(t[:1] + 1) % 4, t[1:]]), "g_idx"),
    ],
)
def test_a_damaged_layer_is_refused_by_name(checkpoint: Path, part: str, edit: Edit, what: str) -> None:
    change(checkpoint, f"model.layers.1.self_attn.q_proj.{part}", edit)
    with pytest.raises(BundleError, match=what):
        load_model(checkpoint)


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_part_is_refused_by_name(checkpoint: Path, part: str) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors[f"model.layers.1.mlp.down_proj.{part}"]
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(BundleError, match=r"model\.layers\.1\.mlp\.down_proj"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"quant_method": "awq"}, "awq"),
        ({"checkpoint_format": "marlin"}, "marlin"),
        ({"group_size": 48}, "group_size"),
        ({"group_size": "64"}, "group_size"),
    ],
)
def test_other_quantizations_are_refused(checkpoint: Path, changes: dict[str, Any], what: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"].update(changes)
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=what):
        load_model(checkpoint)
