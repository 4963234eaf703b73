"""Configurations as the hub has them: of older versions, of models that see images, and damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, SIZES, save_family
from merged_model import random_ids, reference_logits, relative_error
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from edgereason import load_model
from edgereason.errors import BundleError

IDS = random_ids(90, SIZES["vocab_size"], seed=5)


def rewrite(directory: Path, **changes: Any) -> None:
    """Change fields of config.json; None takes a field away."""
    config = {**json.loads((directory / "config.json").read_text()), **changes}
    kept = {name: value for name, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))


def logits(directory: Path) -> np.ndarray:
    with load_model(directory) as model:
        return model.logits(IDS)


OLD: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_theta": 1e4,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "qwen2": {
        "rope_theta": 1e4,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "layer_types": None,
    },
    "gemma2": {"rope_theta": 1e4, "layer_types": None, "tie_word_embeddings": None},
    "phi3": {
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "type": "su",
            **{name: FAMILIES["phi3"].settings["rope_parameters"][name] for name in ("short_factor", "long_factor")},
        },
    },
    "smollm3": {"rope_theta": 2e6, "layer_types": None, "tie_word_embeddings": None},
}


@pytest.mark.parametrize("name", OLD)
def test_configurations_of_older_transformers_give_the_same_model(name: str, tmp_path: Path) -> None:
    save_family(name, tmp_path)
    expected = logits(tmp_path)
    rewrite(tmp_path, rope_parameters=None, **OLD[name])
    np.testing.assert_array_equal(logits(tmp_path), expected)


def test_gemma_3_had_its_two_embeddings_in_fields_of_their_own(tmp_path: Path) -> None:
    save_family("gemma3", tmp_path)
    layer_types = ["sliding_attention", "full_attention"] * 2  # every second one is full
    rewrite(tmp_path, layer_types=layer_types)
    expected = logits(tmp_path)
    rewrite(
        tmp_path,
        layer_types=None,
        sliding_window_pattern=2,
        rope_parameters=None,
        rope_theta=1e5,
        rope_local_base_freq=1e3,
        rope_scaling={"rope_type": "linear", "factor": 4.0},
    )
    np.testing.assert_array_equal(logits(tmp_path), expected)


def test_the_text_part_of_a_model_that_sees_images_is_the_model(tmp_path: Path) -> None:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config=FAMILIES["gemma3"].config(), vision_config=vision, mm_tokens_per_image=4, image_token_index=319
    )
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path)
    ids = [token % 300 for token in IDS]  # no images
    with load_model(tmp_path) as engine:
        assert relative_error(engine.logits(ids), reference_logits(model, ids)) < 2e-3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directories = {name: tmp_path_factory.mktemp("saved") / name for name in ("qwen2", "gemma3", "smollm3", "granite")}
    for name, directory in directories.items():
        save_family(name, directory)
    return directories


@pytest.mark.parametrize(
    ("name", "changes", "what"),
    [
        ("qwen2", {"num_hidden_layers": 1 << 30}, "num_hidden_layers is 1073741824"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "linear_attention"),
        ("qwen2", {"layer_types": None, "max_window_layers": "2"}, "max_window_layers"),
        ("qwen2", {"sliding_window": -1}, "sliding_window"),
        ("qwen2", {"use_sliding_window": "yes"}, "use_sliding_window"),
        ("gemma3", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
        ("gemma3", {"final_logit_softcapping": 0}, "final_logit_softcapping"),
        ("gemma3", {"rope_parameters": [1]}, "rope parameters"),
        ("gemma3", {"text_config": 3}, "text_config"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers"),
        ("granite", {"logits_scaling": 0}, "logits_scaling"),
        ("granite", {"attention_multiplier": "1"}, "attention_multiplier"),
    ],
)
def test_damaged_configurations_are_named(
    saved: dict[str, Path], name: str, changes: dict[str, Any], what: str
) -> None:
    stored = (saved[name] / "config.json").read_text()
    rewrite(saved[name], **changes)
    try:
        with pytest.raises(BundleError, match=what):
            load_model(saved[name])
    finally:
        (saved[name] / "config.json").write_text(stored)
