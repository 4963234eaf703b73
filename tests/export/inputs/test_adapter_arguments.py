"""Several adapters as one, going beyond one, and what the program's arguments say of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from random_model import save_base, save_variant
from transformers import AutoModelForCausalLM

from edgereason.errors import ExportError, UsageError
from edgereason.export.inputs.adapter_arguments import open_stage_adapter, parse_adapters, parse_references, parse_stage
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.inputs.pairing import check_pairing
from edgereason.export.inputs.provenance import describe_stage
from edgereason.export.settings import COMBINATIONS, Settings
from edgereason.text.prompts import ANSWER

WEIGHTS = {"first": 0.7, "second": -0.3, "third": 0.2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base; three adapters of one kind; and others that differ from them."""
    directory = tmp_path_factory.mktemp("inputs")
    save_base(directory / "base")
    for seed, name in enumerate(WEIGHTS):
        save(directory, name, seed, target_modules=["q_proj", "down_proj"] if name == "second" else ["q_proj"])
    save(directory, "rank-stabilized", 1, use_rslora=True)
    save(directory, "larger", 2, r=6)
    save(directory, "dora", 3, use_dora=True)
    save(directory, "embeddings", 4, target_modules=["embed_tokens"])
    save(directory, "saved", 5, modules_to_save=["norm"])
    return directory


def save(directory: Path, name: str, seed: int, **options: Any) -> None:
    save_variant(directory / "base", directory / name, seed=seed, **options)
    file = directory / name / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "init_lora_weights": True}))  # as trained adapters have it


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def merged(
    inputs: Path, weights: dict[str, float] | str, reference: str | None = None, **options: Any
) -> MergedWeights:
    named = {str(inputs / name): weight for name, weight in weights.items()} if isinstance(weights, dict) else None
    there = inputs / reference if reference else None
    adapter = open_stage_adapter(named or inputs / str(weights), there, ANSWER, Settings(**options))
    base = open_base(inputs / "base")
    check_pairing(base, adapter)
    return merge(base, adapter)


@pytest.mark.parametrize("method", COMBINATIONS)
def test_several_adapters_become_what_peft_makes_of_them(inputs: Path, method: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32)
    for name in WEIGHTS:
        if isinstance(model, PeftModel):
            model.load_adapter(inputs / name, name)
        else:
            model = PeftModel.from_pretrained(model, inputs / name, name)
    torch.manual_seed(5)
    model.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "sum", combination_type=method, density=0.4)
    model.set_adapter("sum")
    expected = model.merge_and_unload().state_dict()
    found = merged(inputs, WEIGHTS, combine=method, density=0.4, seed=5)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    changed = "model.layers.0.self_attn.q_proj.weight"
    assert np.abs(found[changed] - merged(inputs, "first")[changed]).max() > 0.01


def test_another_seed_draws_other_values_and_leaves_torchs_own_alone(inputs: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    one, again, other = (merged(inputs, WEIGHTS, combine="dare_linear", seed=seed)[name] for seed in (1, 1, 2))
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("name", ["first", "rank-stabilized", "embeddings"])
def test_a_single_adapter_with_a_weight_is_scaled_by_it(inputs: Path, name: str) -> None:
    base, whole = merge(open_base(inputs / "base")), merged(inputs, name)
    if name == "embeddings":
        with pytest.raises(ExportError, match=r"base_layer\.weight, which is no LoRA factor"):
            merged(inputs, {name: 0.25})
        return
    quarter = merged(inputs, {name: 0.25})
    for tensor in quarter:
        expected = base[tensor] + 0.25 * (whole[tensor] - base[tensor])
        np.testing.assert_allclose(quarter[tensor], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("larger", "must have the same r(.|\n)*--combine cat"),
        ("dora", "lora_magnitude_vector, which is no LoRA factor"),
        ("saved", "norm.weight, which is no LoRA factor"),
    ],
)
def test_adapters_that_cannot_be_combined_are_named(inputs: Path, other: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        merged(inputs, {"first": 0.5, other: 0.5})


def test_adapters_of_different_ranks_are_concatenated(inputs: Path) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    base = open_base(inputs / "base").read(name)
    first, larger = merged(inputs, "first")[name], merged(inputs, "larger")[name]
    found = merged(inputs, {"first": 0.5, "larger": 2.0}, combine="cat")[name]
    np.testing.assert_allclose(found, base + 0.5 * (first - base) + 2 * (larger - base), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.3, -0.5])
@pytest.mark.parametrize("trained", ["second", "dora"])
def test_extrapolation_goes_beyond_the_adapter(inputs: Path, trained: str, alpha: float) -> None:
    found = merged(inputs, trained, "first", extrapolate=alpha)
    here, there = merged(inputs, trained), merged(inputs, "first")
    base = merge(open_base(inputs / "base"))
    for name in found:
        np.testing.assert_allclose(found[name], (1 + alpha) * here[name] - alpha * there[name], rtol=1e-5, atol=1e-6)
    same = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(found[same], base[same])


def test_extrapolation_needs_models_of_one_shape(inputs: Path) -> None:
    with pytest.raises(ExportError, match="have different weights"):
        merged(inputs, "first", "embeddings", extrapolate=0.5)


def test_the_manifest_tells_what_was_combined(inputs: Path) -> None:
    settings = Settings(combine="ties", density=0.2, seed=4, extrapolate=0.3)
    adapter = open_stage_adapter(
        {str(inputs / name): w for name, w in WEIGHTS.items()}, inputs / "dora", ANSWER, settings
    )
    found = describe_stage(open_base(inputs / "base"), adapter)["adapter"]
    assert found["name"] == "first"
    blend = {"method": "ties", "weights": [0.7, -0.3, 0.2], "density": 0.2, "seed": 4}
    assert {key: value for key, value in found["blend"].items() if key != "others"} == blend
    assert [other["name"] for other in found["blend"]["others"]] == ["second", "third"]
    assert found["extrapolation"]["alpha"] == 0.3
    assert found["extrapolation"]["reference"]["name"] == "dora"
    assert str(inputs) not in json.dumps(found)


def test_arguments_name_adapters_and_weights() -> None:
    assert parse_adapters(["a:0.7", "b/c:-2", "d"]) == {"a": 0.7, "b/c": -2.0, "d": 1.0}
    assert parse_adapters(["C:\\adapters"]) == {"C:\\adapters": 1.0}
    assert parse_adapters(["3"]) == {"3": 1.0}
    with pytest.raises(UsageError, match="given twice"):
        parse_adapters(["a:1", "a:2"])
    assert parse_stage("a:0.7,b") == {"a": 0.7, "b": 1.0}
    stages = ("guidance", "answer")
    assert parse_references(["sft"], stages) == {"guidance": "sft", "answer": "sft"}
    assert parse_references(["answer:sft"], stages) == {"answer": "sft"}
    with pytest.raises(UsageError, match="two reference adapters"):
        parse_references(["sft", "answer:other"], stages)


def test_a_directory_is_named_by_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run:2", "step-0:0.5", "answer:sft"):
        (tmp_path / name).mkdir()
        assert parse_adapters([name]) == parse_stage(name) == {name: 1.0}
        assert parse_adapters([f"{tmp_path / name}:0.5"]) == {str(tmp_path / name): 0.5}
    assert parse_stage("run:2,run:3") == {"run:2": 1.0, "run": 3.0}
    assert parse_references(["answer:sft"], ("guidance", "answer")) == {
        "guidance": "answer:sft",
        "answer": "answer:sft",
    }


@pytest.mark.parametrize(
    "options", [{"combine": "sum"}, {"density": 0.0}, {"density": 1.5}, {"extrapolate": float("nan")}]
)
def test_settings_of_combinations_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**options)
