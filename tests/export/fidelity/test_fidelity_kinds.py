"""The ladder over everything that an adapter or a base may be: nothing is lost by 8 bits, and nothing is said to be."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gptq_checkpoint import save_gptq
from random_model import save_base, save_variant
from tokenizers import AddedToken, Tokenizer

from edgereason.bundle import Bundle
from edgereason.export import export
from edgereason.export.fidelity import FidelityReport
from edgereason.export.fidelity.bundle_sources import open_sources
from edgereason.export.fidelity.limits import parse_thresholds
from edgereason.export.fidelity.measure import measure_bundle
from edgereason.files import read_json, write_json
from edgereason.text.prompts import Prompt

QUESTIONS = "Tom has 12 apples and buys 30 more. How many?\nHow many are left?\n"
# Untrained models are unsure between many tokens: rounding decides more often than in trained ones.
LENIENT = ("quantized.top1=0.9", "engine.top1=0.9", "quantized.greedy=0", "engine.greedy=0")
KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True},
    "rank-stabilized, with patterns": {
        "use_rslora": True,
        "rank_pattern": {"q_proj": 9},
        "alpha_pattern": {"v_proj": 3},
    },
    "one layer": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "biases": {"lora_bias": True},
    "saved tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "both tables": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "some tokens": {"trainable_token_indices": [3, 8, 21]},
}


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    """PEFT warns of tied weights, ours of quantized bases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base"
    save_base(path, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    return path


def exported(base: Path, adapters: tuple[Path, Path], tmp_path: Path, **options: Any) -> tuple[Bundle, FidelityReport]:
    """A bundle of 8 bits that was measured, and its report."""
    (tmp_path / "questions.txt").write_text(QUESTIONS)
    bundle = export(
        base, *adapters, tmp_path / "out", bits=8, prompts=tmp_path / "questions.txt", thresholds=LENIENT, **options
    )
    return bundle, FidelityReport.from_json(bundle.fidelity, "bundle.json")


def assert_only_rounding(report: FidelityReport) -> None:
    assert report.finding is None
    for stage in report.stages.values():
        rungs = {rung.name: rung.measures for rung in stage.rungs}
        assert 0 < rungs["quantized"]["kl"] < 0.005
        if "merged" in rungs:
            assert rungs["merged"]["kl"] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind(base: Path, tmp_path: Path, kind: str) -> None:
    paths = (tmp_path / "guidance", tmp_path / "answer")
    for seed, path in enumerate(paths):
        save_variant(base, path, seed=seed, **KINDS[kind])
    _, report = exported(base, paths, tmp_path)
    assert_only_rounding(report)


@pytest.mark.parametrize("format", ["native", "gguf"])
def test_a_vocabulary_that_training_has_grown(tmp_path: Path, format: str) -> None:
    save_base(tmp_path / "base")
    tokenizer = Tokenizer.from_file(str(tmp_path / "base/tokenizer.json"))
    tokens = [f"<|step{i}|>" for i in range(8)]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    paths = (tmp_path / "guidance", tmp_path / "answer")
    for seed, path in enumerate(paths):
        save_variant(tmp_path / "base", path, tokenizer.get_vocab_size(), seed)
        tokenizer.save(str(path / "tokenizer.json"))
        shutil.copy(tmp_path / "base/tokenizer_config.json", path)
        prompt = Prompt("", f"{tokens[0]}{{question}}{tokens[1]}{{guidance}}", f"{tokens[0]}{{question}}")
        (path / "prompt.json").write_text(json.dumps(prompt.to_json()))
    bundle, report = exported(tmp_path / "base", paths, tmp_path, format=format)
    assert_only_rounding(report)
    assert tokens[0] in (bundle.path / "answer/tokenizer.json").read_text()


@pytest.mark.parametrize("layout", ["merged", "shared"])
def test_a_base_that_is_quantized_itself(base: Path, tmp_path: Path, layout: str) -> None:
    """Its own rounding is part of the reference, and none of the loss."""
    save_gptq(base, tmp_path / "gptq", group_size=32)
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "gptq")
    paths = (tmp_path / "guidance", tmp_path / "answer")
    for seed, path in enumerate(paths):
        save_variant(base, path, seed=seed)
    _, report = exported(tmp_path / "gptq", paths, tmp_path, layout=layout)
    assert_only_rounding(report)


def test_activated_adapters_on_one_base(base: Path, tmp_path: Path) -> None:
    invocation = Tokenizer.from_file(str(base / "tokenizer.json")).encode("\nNow:").ids
    paths = (tmp_path / "guidance", tmp_path / "answer")
    for seed, path in enumerate(paths):
        save_variant(base, path, seed=seed, alora_invocation_tokens=invocation)
        prompt = Prompt("", "{question}\n{guidance}\nNow:", "{question}\nNow:")
        (path / "prompt.json").write_text(json.dumps(prompt.to_json()))
    bundle, report = exported(base, paths, tmp_path, layout="shared")
    assert_only_rounding(report)
    # An adapter that applies to the whole text is another one.
    file = bundle.path / "answer/adapter_config.json"
    write_json(file, {**read_json(file), "alora_invocation_tokens": None})
    against = open_sources(bundle, str(base), *paths)
    broken = measure_bundle(bundle, against, prompts=tmp_path / "questions.txt", thresholds=parse_thresholds(LENIENT))
    assert broken.finding is not None
    assert broken.finding.rung == "stored"  # the first that has the adapter of the bundle
