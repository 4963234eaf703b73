"""Families as ONNX: the logits of transformers, or a refusal that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest
from families import SIZES, save_family, scaled
from merged_model import random_ids, reference_logits, relative_error
from random_model import save_tokenizer

from edgereason.engines.onnx import OnnxEngine
from edgereason.errors import ExportError
from edgereason.export.formats.onnx_families import ONNX_FAMILIES
from edgereason.export.formats.onnx_writer import write_onnx

NO_WINDOW = {"sliding_window": None}
PLAIN = scaled(rope_type="default")
# Of each family: a configuration of families.py, and changes of it.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {**NO_WINDOW, "head_dim": 32},
    "qwen2": PLAIN,
    "qwen3": PLAIN,
    "gemma2": {},
    "granite": {},
    "phi3 with a window": {**NO_WINDOW, "original_max_position_embeddings": SIZES["max_position_embeddings"]},
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "sliding_window": ("mistral", {"head_dim": 32}),
    "heads of 16": ("mistral", NO_WINDOW),
    '"linear"': ("llama", scaled(rope_type="linear", factor=2.0)),
    '"yarn"': ("qwen2", {}),
    '"longrope"': ("phi3", NO_WINDOW),
    "original_max_position": ("phi3 with a window", NO_WINDOW),
}


def test_all_families_are_covered() -> None:
    assert {families.FAMILIES[name].model_type for name in MODELS} == set(ONNX_FAMILIES)


@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = save_family(name, tmp_path / "in", **MODELS[name])
    save_tokenizer(tmp_path / "in")
    (tmp_path / "out").mkdir()
    write_onnx(tmp_path / "in", tmp_path / "out", 32)
    ids = random_ids(90, SIZES["vocab_size"])
    session = OnnxEngine(tmp_path / "out", 1).session(len(ids))
    assert relative_error(session.advance(ids, every=True), reference_logits(model, ids)) < 1e-5


@pytest.mark.parametrize("reason", REFUSED)
def test_what_the_builder_would_compute_otherwise_is_refused(reason: str, tmp_path: Path) -> None:
    family, changes = REFUSED[reason]
    save_family(family, tmp_path / "in", **changes)
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match=reason):
        write_onnx(tmp_path / "in", tmp_path / "out", 4)
    assert list((tmp_path / "out").iterdir()) == []
