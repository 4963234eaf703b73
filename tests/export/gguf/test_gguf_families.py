"""Every family as GGUF: what llama.cpp's converter writes, and the logits of transformers in llama.cpp."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import families
import pytest
from families import SIZES, save_family, scaled
from gguf_contents import convert, differences
from gguf_models import MODELS, NO_WINDOW, YARN, save_gguf_model
from merged_model import random_ids, reference_logits, relative_error
from random_model import save_tokenizer

from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.errors import ExportError
from edgereason.export.gguf import GGUF_FAMILIES, write_gguf
from edgereason.export.gguf.writer import open_family


def test_all_families_are_covered() -> None:
    assert {families.FAMILIES[family].model_type for family, _ in MODELS.values()} == set(GGUF_FAMILIES)


@pytest.mark.conformance
@pytest.mark.parametrize("name", MODELS)
def test_f16_is_what_the_converter_of_llama_cpp_writes(name: str, tmp_path: Path) -> None:
    save_gguf_model(name, tmp_path)
    write_gguf(tmp_path, tmp_path / "ours.gguf", "F16")
    found = differences(tmp_path / "ours.gguf", convert(tmp_path, tmp_path / "theirs.gguf"))
    # The token that ends an assistant's turn, where the template has another one than the end of a text.
    found.pop("tokenizer.ggml.eot_token_id", None)
    assert found == {}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_gguf_model(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    ids = random_ids(90, SIZES["vocab_size"])
    engine = LlamaCppEngine(tmp_path / "model.gguf", 1)
    found = engine.session(len(ids)).advance(ids, every=True)
    engine.close()
    assert relative_error(found, reference_logits(model, ids)) < 1e-2  # weights and cache are stored in float16


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "uses silu": ("llama", {"hidden_act": "gelu"}),
    'no RoPE of the type "dynamic"': ("llama", scaled(rope_type="dynamic", factor=2.0)),
    "beta_slow of YaRN": (
        "qwen2",
        {**NO_WINDOW, **YARN, "rope_parameters": {**YARN["rope_parameters"], "beta_slow": 2}},
    ),
    "every fourth layer": ("smollm3", {}),
    "query_pre_attn_scalar is 10": ("gemma2", {}),
    "final_logit_softcapping is None": ("gemma2", {"query_pre_attn_scalar": 32, "final_logit_softcapping": None}),
    "another head_dim": ("granite", {"head_dim": 32}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_refused(reason: str, tmp_path: Path) -> None:
    family, changes = REFUSED[reason]
    config = families.FAMILIES[family].config(**changes)
    with pytest.raises(ExportError, match=reason):
        open_family(config, tmp_path)


def test_a_bias_that_llama_cpp_does_not_add_is_refused(tmp_path: Path) -> None:
    save_family("qwen3", tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(ExportError, match=r"self_attn\.o_proj\.bias, which llama\.cpp lacks"):
        write_gguf(tmp_path, tmp_path / "model.gguf", "F16")


def test_a_window_that_llama_cpp_does_not_compute_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="has a sliding window of 24 tokens"):
        open_family(families.FAMILIES["mistral"].config(), tmp_path)


def test_windows_of_other_layers_than_llama_cpp_assumes_are_listed(tmp_path: Path) -> None:
    order = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = save_gguf_model("gemma2", tmp_path, layer_types=order)
    write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    ids = random_ids(90, SIZES["vocab_size"])
    engine = LlamaCppEngine(tmp_path / "model.gguf", 1)
    found = engine.session(len(ids)).advance(ids, every=True)
    engine.close()
    assert relative_error(found, reference_logits(model, ids)) < 1e-2
