"""Weight files: what is written is read back, and damaged or hostile files are refused before a kernel reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from edgereason.checkpoints.safetensors_reader import read_safetensors
from edgereason.checkpoints.weights import Weights
from edgereason.engines.native import NativeEngine
from edgereason.errors import BundleError, ExportError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.quantization.round_to_nearest import Rounding

CONFIG = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def random_tensors() -> dict[str, np.ndarray]:
    shapes = {
        "model.embed_tokens.weight": (50, 32),
        "model.norm.weight": (32,),
        "model.layers.0.input_layernorm.weight": (32,),
        "model.layers.0.post_attention_layernorm.weight": (32,),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.self_attn.k_proj.weight": (16, 32),
        "model.layers.0.self_attn.v_proj.weight": (16, 32),
        "model.layers.0.self_attn.o_proj.weight": (32, 32),
        "model.layers.0.mlp.gate_proj.weight": (64, 32),
        "model.layers.0.mlp.up_proj.weight": (64, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 64),
    }
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A small native int4 model."""
    write_native(tmp_path / "model", CONFIG, random_tensors(), Rounding(4))
    return tmp_path / "model"


def test_the_safetensors_library_reads_what_we_write(native):
    ours, _ = read_safetensors(native / "model.safetensors")
    theirs = load_file(native / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name].array, array)


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16), "c": np.uint8([[7]])}
    save_file(arrays, tmp_path / "x.safetensors", {"k": "v"})
    tensors, metadata = read_safetensors(tmp_path / "x.safetensors")
    assert metadata == {"k": "v"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].array, array)


def test_data_starts_on_64_bytes_and_nothing_temporary_stays(native):
    content = (native / "model.safetensors").read_bytes()
    assert (8 + int.from_bytes(content[:8], "little")) % 64 == 0
    assert sorted(path.name for path in native.iterdir()) == ["config.json", "model.safetensors"]


def test_progress_ends_at_the_total(tmp_path):
    calls: list[tuple[int, int]] = []
    write_native(tmp_path, CONFIG, random_tensors(), Rounding(8), progress=lambda *step: calls.append(step))
    assert calls[-1] == (11, 11)
    assert [done for done, _ in calls] == list(range(1, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": np.full(32, np.inf, np.float32)}, "has NaN or infinite values"),
        ({"model.layers.0.self_attn.k_proj.weight": None}, "lacks the weights of k_proj"),
        ({"model.layers.0.self_attn.q_proj.bias": np.ones(32, np.float32)}, "lacks the biases of k_proj, v_proj"),
        ({"model.rotary.inv_freq": np.ones(32, np.float32)}, "no place for"),
    ],
)
def test_weights_that_cannot_be_written_are_refused(tmp_path, change, message):
    tensors = {name: array for name, array in {**random_tensors(), **change}.items() if array is not None}
    with pytest.raises(ExportError, match=message):
        write_native(tmp_path / "model", CONFIG, tensors, Rounding(4))
    assert not (tmp_path / "model").exists()


def test_float16_overflow_is_refused(tmp_path):
    tensors = {"model.embed_tokens.weight": np.full((2, 2), 1e6, np.float32)}
    with pytest.raises(ExportError, match="beyond float16"):
        write_native(tmp_path, CONFIG, tensors, Rounding(16))


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a file's header, leaving its data as it is."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


Q = "model.layers.0.mlp.down_proj.qweight"


def shift(header: dict[str, Any]) -> None:
    begin, end = header[Q]["data_offsets"]
    header[Q]["data_offsets"] = [begin - 64, end - 64] if begin else [64, end + 64]


def packed(header: dict[str, Any], **fields: Any) -> None:
    described = json.loads(header["__metadata__"]["packed"])
    described["model.layers.0.mlp.down_proj"].update(fields)
    header["__metadata__"]["packed"] = json.dumps(described)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h: h[Q].update(data_offsets=[0, 1 << 40]), id="beyond the file"),
        pytest.param(lambda h: h[Q].update(data_offsets=[-64, 960]), id="negative offset"),
        pytest.param(lambda h: h[Q].update(shape=[1 << 30, 1 << 30, 256]), id="huge shape"),
        pytest.param(lambda h: h[Q].update(shape=[-2, -2, 256]), id="negative shape"),
        pytest.param(lambda h: h[Q].update(shape=[2.0, 2, 256]), id="fractions"),
        pytest.param(lambda h: h[Q].update(dtype="F31"), id="unknown type"),
        pytest.param(lambda h: h[Q].update(dtype="I8"), id="other type"),
        pytest.param(lambda h: h[Q].update(shape=[1, 4, 256]), id="other shape"),
        pytest.param(lambda h: h.pop(Q), id="a tensor left out"),
        pytest.param(lambda h: h[Q].pop("dtype"), id="no type"),
        pytest.param(lambda h: h.update({Q: 5}), id="no object"),
        pytest.param(shift, id="overlap"),
        pytest.param(lambda h: packed(h, bits=8), id="bits that do not fit"),
        pytest.param(lambda h: packed(h, bits="4"), id="bits as text"),
        pytest.param(lambda h: packed(h, rows=1 << 60), id="rows that do not fit"),
        pytest.param(lambda h: packed(h, columns=-64), id="negative columns"),
        pytest.param(lambda h: packed(h, more=1), id="unknown field"),
        pytest.param(lambda h: h["__metadata__"].update(packed="[1]"), id="packed is no object"),
        pytest.param(lambda h: h["__metadata__"].update(version="2"), id="a later version"),
    ],
)
def test_a_header_that_lies_is_refused(native, change):
    rewrite_header(native / "model.safetensors", change)
    with pytest.raises(BundleError, match="model"):
        NativeEngine(native)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -5000])
def test_a_truncated_file_is_refused(native, kept):
    path = native / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        Weights(native)


@given(position=st.integers(0, 2000), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_of_the_header_is_refused_or_harmless(native, position, value):
    content = bytearray((native / "model.safetensors").read_bytes())
    content[position] = value
    other = native.parent / "changed"
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(json.dumps(CONFIG))
    (other / "model.safetensors").write_bytes(content)
    try:
        engine = NativeEngine(other)
    except BundleError:
        return
    assert engine.session().advance([1, 2, 3]).shape == (1, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "names the architecture 'mamba'"),
        ({"model_type": None}, "names the architecture None"),
        ({"hidden_size": 64}, r"is \[50, 32\], its config.json asks for \[50, 64\]"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": 2}, "lacks model.layers.1.input_layernorm.weight"),
        ({"num_key_value_heads": 3}, "do not fit 3 KV heads"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not covered"),
        ({"attention_bias": True}, r"lacks model.layers.0.self_attn.qkv_proj.bias"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type 'spiral' is not known"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor of the rope parameters is None"),
        ({"rope_theta": 0}, "rope_theta of the rope parameters is 0"),
        ({"head_dim": 1 << 30}, "heads of 1073741824 elements"),
        ({"rope_scaling": [1]}, "rope parameters"),
        ({"tie_word_embeddings": False}, "lacks lm_head"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(native, change, message):
    config = {name: value for name, value in {**CONFIG, **change}.items() if value is not None}
    (native / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=message):
        NativeEngine(native)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(BundleError, match=r"config\.json cannot be read"):
        Weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        Weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        Weights(tmp_path)


def test_shards_outside_of_the_directory_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="outside of its directory"):
        Weights(tmp_path)


def test_quantized_checkpoints_of_others_are_named(tmp_path):
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(BundleError, match="quantized with awq"):
        Weights(tmp_path)
