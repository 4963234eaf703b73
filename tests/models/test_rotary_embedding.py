"""Rotary embeddings against those of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from edgereason.errors import BundleError
from edgereason.models.rotary_embedding import Rope, context_length

HEAD_DIM = 32
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn with its own ramp": {
        "rope_type": "yarn",
        "factor": 40.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
        "original_max_position_embeddings": 128,
    },
    "yarn with its own attention factor": {
        "rope_type": "yarn",
        "factor": 4.0,
        "attention_factor": 1.3,
        "original_max_position_embeddings": 128,
    },
    "longrope": {
        "rope_type": "longrope",
        "short_factor": np.linspace(1, 2, HEAD_DIM // 2).tolist(),
        "long_factor": np.linspace(2, 40, HEAD_DIM // 2).tolist(),
        "original_max_position_embeddings": 128,
    },
    "longrope with factors": {
        "rope_type": "longrope",
        "short_factor": [1.0] * (HEAD_DIM // 2),
        "long_factor": [3.0] * (HEAD_DIM // 2),
        "factor": 16.0,
        "attention_factor": 1.19,
        "original_max_position_embeddings": 128,
    },
}


def llama(parameters: dict[str, Any], **changes: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_theta": 10000.0, **parameters},
        **changes,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [100, 500, 1500])
def test_frequencies_and_scale_are_those_of_transformers(kind: str, length: int) -> None:
    config = llama(KINDS[kind])
    if kind == "default":
        expected, scale = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        expected, scale = ROPE_INIT_FUNCTIONS[KINDS[kind]["rope_type"]](config, "cpu", seq_len=length)
    rope = Rope.from_json(config.to_dict(), HEAD_DIM)
    np.testing.assert_allclose(rope.frequencies(length), expected.numpy(), rtol=1e-6)
    assert rope.scale == pytest.approx(scale, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_sines_are_those_of_transformers(kind: str) -> None:
    config = llama(KINDS[kind])
    positions = np.arange(700)
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, 700, 1), torch.from_numpy(positions)[None])
    cos_sin = Rope.from_json(config.to_dict(), HEAD_DIM).cos_sin(positions, np.full(700, 700))
    for found, expected in zip(cos_sin, (cos, sin), strict=True):
        # At position 700, an angle in float32 is known to 6e-5.
        np.testing.assert_allclose(found, expected[0, :, : HEAD_DIM // 2].numpy(), atol=2e-4)


def test_each_row_turns_by_the_length_of_its_own_sequence() -> None:
    rope = Rope.from_json(llama(KINDS["longrope"]).to_dict(), HEAD_DIM)
    positions, lengths = np.array([3, 90, 3, 90]), np.array([100, 100, 300, 300])
    mixed = rope.cos_sin(positions, lengths)
    for rows in (slice(0, 2), slice(2, 4)):
        alone = rope.cos_sin(positions[rows], lengths[rows])
        np.testing.assert_array_equal(mixed[0][rows], alone[0])
        np.testing.assert_array_equal(mixed[1][rows], alone[1])
    assert not np.allclose(mixed[0][1], mixed[0][3])


@pytest.mark.parametrize("name", ["type", "rope_type"])
def test_configurations_of_older_transformers_are_read(name: str) -> None:
    old = {"rope_theta": 5000.0, "rope_scaling": {name: "linear", "factor": 2.0}, "max_position_embeddings": 64}
    new = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}}
    np.testing.assert_array_equal(Rope.from_json(old, 16).inv_freq, Rope.from_json(new, 16).inv_freq)


def test_a_part_of_the_head_turns() -> None:
    config = Phi3Config(
        hidden_size=128,
        num_attention_heads=4,
        pad_token_id=0,
        partial_rotary_factor=0.75,
        original_max_position_embeddings=64,
        max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.1] * 12,
            "long_factor": [2.2] * 12,
        },
    )
    expected, scale = ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=10)
    rope = Rope.from_json(config.to_dict(), 32)
    np.testing.assert_allclose(rope.frequencies(10), expected.numpy(), rtol=1e-6)
    assert rope.inv_freq.shape == (12,)
    assert rope.scale == pytest.approx(scale)


def test_each_type_of_layer_has_its_own() -> None:
    parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    }
    full = Rope.from_json({"rope_parameters": parameters}, 16, "full_attention")
    sliding = Rope.from_json({"rope_parameters": parameters}, 16, "sliding_attention")
    np.testing.assert_allclose(full.inv_freq, 1e6 ** -(np.arange(0, 16, 2) / 16) / 8, rtol=1e-6)
    np.testing.assert_allclose(sliding.inv_freq, 1e4 ** -(np.arange(0, 16, 2) / 16), rtol=1e-6)


def test_the_context_grows_with_a_scaling_that_is_applied_on_top() -> None:
    yarn = {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}
    assert context_length(yarn, 32) == 128
    assert context_length(yarn, 100) == 128
    assert context_length({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 64) == 128
    assert context_length({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 64) == 64
    assert context_length({}, 64) == 64


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "spiral"},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "linear", "factor": "two"},
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": -3.0},
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
        {"partial_rotary_factor": 0.01},
        ["linear"],
    ],
)
def test_wrong_parameters_are_refused(parameters: Any) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        Rope.from_json({"rope_parameters": parameters}, 16)
