"""Every family's export: base and adapters in, the logits of base and unmerged adapter out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dequantized import load_dequantized
from families import FAMILIES, SIZES, save_family
from merged_model import random_ids, reference_logits, relative_error
from peft import LoraConfig, PeftModel, get_peft_model
from random_model import save_base, save_tokenizer
from transformers import AutoModelForCausalLM

from edgereason import load_model
from edgereason.errors import ExportError
from edgereason.export import export
from edgereason.export.formats.supported_families import supported_families

IDS = random_ids(90, SIZES["vocab_size"])


def save_adapter(base: Path, directory: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(directory)


@pytest.fixture(scope="module", params=FAMILIES)
def inputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `guidance` and `answer` of a family."""
    directory = tmp_path_factory.mktemp("inputs")
    save_family(request.param, directory / "base")
    save_tokenizer(directory / "base")
    for seed, stage in enumerate(("guidance", "answer")):
        save_adapter(directory / "base", directory / stage, seed)
    return directory


def merged(inputs: Path, stage: str) -> torch.nn.Module:
    base = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32, attn_implementation="eager")
    return PeftModel.from_pretrained(base, inputs / stage).eval().merge_and_unload()


def test_full_precision_has_the_logits_of_the_unmerged_adapters(inputs: Path, tmp_path: Path) -> None:
    export(inputs / "base", inputs / "guidance", inputs / "answer", tmp_path / "out", bits=16, verify=False)
    base = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32, attn_implementation="eager")
    for stage in ("guidance", "answer"):
        expected = reference_logits(PeftModel.from_pretrained(base, inputs / stage).eval(), IDS)
        with load_model(tmp_path / "out" / stage) as model:
            assert relative_error(model.logits(IDS), expected) < 5e-3  # weights are stored in float16


def test_four_bits_have_the_logits_of_the_rounded_weights(inputs: Path, tmp_path: Path) -> None:
    export(inputs / "base", inputs / "guidance", inputs / "answer", tmp_path / "out", bits=4, verify=False)
    reference = merged(inputs, "answer")
    exact = reference_logits(reference, IDS)
    load_dequantized(reference, tmp_path / "out/answer")
    expected = reference_logits(reference, IDS)
    with load_model(tmp_path / "out/answer") as model:
        found = model.logits(IDS)
    # Activations have 8 bits, whose errors such wide random weights amplify; rounding the weights is far worse.
    assert relative_error(found, expected) < 8e-2
    assert relative_error(found, expected) < relative_error(expected, exact) / 2


def test_other_formats_name_the_families_that_they_take(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_base(base)
    config = json.loads((base / "config.json").read_text())
    for format in ("gguf", "onnx"):
        lacking = sorted(set(supported_families("native")) - set(supported_families(format)))
        for family in lacking[:1]:
            (base / "config.json").write_text(json.dumps({**config, "model_type": family}))
            with pytest.raises(ExportError, match=rf"{family}.*cannot be exported to {format}(.|\n)*--format native"):
                export(base, base, base, tmp_path / "out", format=format, verify=False)
