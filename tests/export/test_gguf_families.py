"""Every family as GGUF: what llama.cpp's converter writes, and the logits of transformers in llama.cpp."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from families import SIZES, save_family, scaled
from gguf_contents import convert, differences
from merged_model import random_ids, reference_logits, relative_error
from pieces import save_pieces
from random_model import save_tokenizer

from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.export.gguf import FAMILIES, write_gguf

YARN = scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1)
GEMMA3_ROPE = {
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
        "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
    }
}
NO_WINDOW = {"sliding_window": None, "use_sliding_window": False}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
# The oddities of each family that llama.cpp computes, by name: a configuration of families.py, and changes of it.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama yarn, tied": ("llama", {"tie_word_embeddings": True, **NO_BIAS, **YARN}),
    "mistral": ("mistral", NO_WINDOW),
    "mistral linear": ("mistral", {**NO_WINDOW, **scaled(rope_type="linear", factor=3.0)}),
    "qwen2": ("qwen2", NO_WINDOW),
    "qwen2 plain": ("qwen2", {**NO_WINDOW, "tie_word_embeddings": False, **scaled(rope_type="default")}),
    "qwen3": ("qwen3", NO_BIAS),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "gemma3": ("gemma3", {"query_pre_attn_scalar": 32, "layer_types": None, "num_hidden_layers": 7, **GEMMA3_ROPE}),
    "phi3": ("phi3", {}),
    "phi3 plain, tied": ("phi3 with a window", {"sliding_window": None, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {**NO_WINDOW, **NO_BIAS, "no_rope_layers": None}),
    "granite": ("granite", {}),
}


def save(name: str, directory: Path, **changes: Any) -> Any:
    family, own = MODELS[name]
    model = save_family(family, directory, **{**own, **changes})
    if name.startswith(("gemma", "phi3")):  # the converter asks for tokenizer.model
        save_pieces(directory, prefix=not name.startswith("gemma"))
    else:
        save_tokenizer(directory)
    return model


def test_all_families_are_covered() -> None:
    assert {"gemma3_text" if family == "gemma3" else family.split()[0] for family, _ in MODELS.values()} == set(
        FAMILIES
    )


@pytest.mark.conformance
@pytest.mark.parametrize("name", MODELS)
def test_f16_is_what_the_converter_of_llama_cpp_writes(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    write_gguf(tmp_path, tmp_path / "ours.gguf", "F16")
    assert differences(tmp_path / "ours.gguf", convert(tmp_path, tmp_path / "theirs.gguf")) == {}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    ids = random_ids(90, SIZES["vocab_size"])
    engine = LlamaCppEngine(tmp_path / "model.gguf", 2)
    found = engine.session(len(ids)).advance(ids, every=True)
    engine.close()
    assert relative_error(found, reference_logits(model, ids)) < 1e-2  # weights and cache are stored in float16
