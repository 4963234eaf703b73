"""Merging: base + adapter in one set of weights is base and unmerged adapter, whatever PEFT has written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_variants import VARIANTS, of_new_tokens
from peft import PeftModel
from random_model import save_base, save_variant
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgereason.errors import ExportError
from edgereason.export.inputs import materialize as materialize_module
from edgereason.export.inputs.adapter import Adapter, open_adapter
from edgereason.export.inputs.base_model import Base, open_base
from edgereason.export.inputs.materialize import materialize
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.inputs.pairing import check_pairing
from edgereason.text.prompts import ANSWER, GUIDANCE

IDS = torch.arange(40)[None]
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module", params=["tied", "with biases"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base"
    biased = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    save_base(path, **(biased if request.param == "with biases" else {}))
    return path


@pytest.fixture(autouse=True)
def _without_warnings() -> Iterator[None]:
    """PEFT warns of tied weights, which are what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unmerged(base: Path, adapter: Path, vocab: int | None = None) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if vocab:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).eval()


def logits(model: torch.nn.Module, ids: list[int] | None = None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS if ids is None else torch.tensor([ids])).logits
    return found


def merge_checked(base: Base, adapter: Adapter) -> MergedWeights:
    check_pairing(base, adapter)
    return merge(base, adapter)


def change_tensors(base: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = base / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file, {"format": "pt"})


def opened(base: Path, adapter: Path) -> tuple[Base, Adapter]:
    return open_base(base), open_adapter(adapter, ANSWER)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_weights_have_the_logits_of_the_unmerged_adapter(base: Path, tmp_path: Path, variant: str) -> None:
    if "bias" in variant and "mlp_bias" not in (base / "config.json").read_text().replace('"mlp_bias": false', ""):
        pytest.skip("this base has no biases")
    save_variant(base, tmp_path / "adapter", **VARIANTS[variant])
    expected = logits(unmerged(base, tmp_path / "adapter"))
    materialize(merge(*opened(base, tmp_path / "adapter")), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.float32
    plain = logits(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    assert (expected - plain).abs().max() > 0.05  # the adapter does something
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"target_modules": "all-linear"}], ids=["DoRA", "LoRA"])
def test_merged_weights_are_those_of_peft(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    save_variant(base, tmp_path / "adapter", **options)
    expected = unmerged(base, tmp_path / "adapter").merge_and_unload().state_dict()  # type: ignore[operator]
    merged = merge(*opened(base, tmp_path / "adapter"))
    for name in merged:
        np.testing.assert_allclose(merged[name], expected[name].numpy(), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"target_modules": ["q_proj", "embed_tokens"]}], ids=["plain", "embeddings"])
def test_a_resized_vocabulary_comes_with_the_adapter(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    vocab = json.loads((base / "config.json").read_text())["vocab_size"] + 5
    save_variant(base, tmp_path / "adapter", vocab, **options)
    if options and not json.loads((base / "config.json").read_text())["tie_word_embeddings"]:
        # PEFT has not saved the head then: its new rows are lost.
        with pytest.raises(ExportError, match=r"lm_head\.weight is(.|\n)*modules_to_save"):
            merge(*opened(base, tmp_path / "adapter"))
        return
    expected = logits(unmerged(base, tmp_path / "adapter", vocab))
    merged = merge(*opened(base, tmp_path / "adapter"))
    assert merged.config["vocab_size"] == vocab == len(merged["model.embed_tokens.weight"])
    materialize(merged, tmp_path / "merged")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("saved", ["auto", False], ids=["tables saved", "tables not saved"])
@pytest.mark.parametrize("way", of_new_tokens([]))
def test_new_tokens_have_the_logits_of_peft_or_their_rows_are_lost(
    base: Path, tmp_path: Path, way: str, saved: Any
) -> None:
    """PEFT's rows are random where the adapter's file lacks them: two models that are resized differ there."""
    old = json.loads((base / "config.json").read_text())["vocab_size"]
    save_variant(base, tmp_path / "adapter", old + 2, save_embedding_layers=saved, **of_new_tokens([old, old + 1])[way])
    torch.manual_seed(1)
    expected = logits(unmerged(base, tmp_path / "adapter", old + 2), [3, old, 5, old + 1, 7])
    torch.manual_seed(2)
    again = logits(unmerged(base, tmp_path / "adapter", old + 2), [3, old, 5, old + 1, 7])
    inputs = opened(base, tmp_path / "adapter")
    if (expected - again).abs().max() > 1e-3:
        with pytest.raises(ExportError, match=r"has to be|neither of them has the embeddings") as caught:
            merge_checked(*inputs)
        assert "save_embedding_layers=True" in caught.value.cure
        return
    merged = merge_checked(*inputs)
    materialize(merged, tmp_path / "merged")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), [3, old, 5, old + 1, 7])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert merged.config["tie_word_embeddings"] is not ("lm_head.weight" in merged)


@pytest.mark.parametrize(
    "variant", ["all linear layers", "saved embeddings", "some tokens", "both tables", "embeddings"]
)
def test_a_head_that_is_tied_in_name_only_keeps_its_numbers(tmp_path: Path, variant: str) -> None:
    save_base(tmp_path / "base")
    change_tensors(tmp_path / "base", lambda tensors: {HEAD: tensors[TABLE].flip(0), **tensors})
    save_variant(tmp_path / "base", tmp_path / "adapter", **VARIANTS[variant])
    merged = merge_checked(*opened(tmp_path / "base", tmp_path / "adapter"))
    assert merged.config["tie_word_embeddings"] is False
    materialize(merged, tmp_path / "merged")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(found, logits(unmerged(tmp_path / "base", tmp_path / "adapter")), rtol=1e-4, atol=1e-4)


def test_a_head_that_is_stored_twice_stays_tied(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    expected = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32))
    for change in (
        lambda tensors: {HEAD: tensors[TABLE].clone(), **tensors},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if name != TABLE},  # the head alone
    ):
        change_tensors(tmp_path / "base", change)
        merged = merge(open_base(tmp_path / "base"))
        assert merged.config["tie_word_embeddings"] is True
        assert HEAD not in merged
        materialize(merged, tmp_path / "merged")
        found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32))
        torch.testing.assert_close(found, expected)


def test_tokens_cannot_be_added_to_a_base_that_is_tied_in_name_only(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    change_tensors(tmp_path / "base", lambda tensors: {HEAD: tensors[TABLE].flip(0), **tensors})
    old = json.loads((tmp_path / "base/config.json").read_text())["vocab_size"]
    save_variant(tmp_path / "base", tmp_path / "adapter", old + 2)
    with pytest.raises(ExportError, match="ties an LM head of other numbers to the embeddings"):
        merge_checked(*opened(tmp_path / "base", tmp_path / "adapter"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_adapter_in_16_bits_is_merged_in_32(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    save_variant(base, tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(tensors, file)
    q = "model.layers.0.self_attn.q_proj"
    low, high = (tensors[f"base_model.model.{q}.lora_{part}.weight"].float() for part in "AB")
    found = merge(*opened(base, tmp_path / "adapter"))[f"{q}.weight"]
    expected = load_file(base / "model.safetensors")[f"{q}.weight"].float() + 2 * high @ low
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-6, atol=1e-6)


def test_a_tied_head_stays_tied_unless_one_of_the_two_is_changed(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    ties = {"all linear layers": True, "some tokens": True, "embeddings": False, "saved and tied tables": True}
    for index, (variant, tied) in enumerate({**ties, "saved head": False}.items()):
        save_variant(tmp_path / "base", tmp_path / str(index), **VARIANTS[variant])
        merged = merge(*opened(tmp_path / "base", tmp_path / str(index)))
        assert merged.config["tie_word_embeddings"] is tied, variant
        assert ("lm_head.weight" in merged) is not tied, variant


def test_merging_twice_gives_the_same_and_leaves_the_adapter_as_it_was(base: Path, tmp_path: Path) -> None:
    save_variant(base, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"], use_dora=True)
    merged = merge(*opened(base, tmp_path / "adapter"))
    first = {name: merged[name].copy() for name in merged}
    for name in reversed(list(merged)):
        np.testing.assert_array_equal(merged[name], first[name], err_msg=name)


def test_shapes_are_known_before_a_tensor_is_read(base: Path, tmp_path: Path) -> None:
    save_variant(base, tmp_path / "adapter")
    merged = merge(*opened(base, tmp_path / "adapter"))
    assert {name: array.shape for name, array in merged.items()} == dict(merged.shapes)
    assert len(merged) == len(list(merged))
    with pytest.raises(KeyError):
        merged["no.such.weight"]


def test_large_models_are_written_in_shards(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materialize_module, "SHARD_BYTES", 100_000)
    save_variant(base, tmp_path / "adapter")
    merged = merge(*opened(base, tmp_path / "adapter"))
    calls: list[tuple[int, int]] = []
    materialize(merged, tmp_path / "merged", lambda done, total: calls.append((done, total)))
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 2
    expected = logits(unmerged(base, tmp_path / "adapter"))
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert calls == [(done, len(merged)) for done in range(1, len(merged) + 1)]


def test_a_sharded_base_is_read(base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "base", max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "base")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    whole, sharded = merge(open_base(base)), merge(open_base(tmp_path / "base"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], sharded[name])


def test_no_more_than_a_few_tensors_are_in_memory(tmp_path: Path) -> None:
    """In a process of its own, which tells the peak of what it has allocated."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc/self/status")
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "tie_word_embeddings": False}
    save_base(tmp_path / "base", **sizes)
    save_variant(tmp_path / "base", tmp_path / "adapter", target_modules=["down_proj"], use_dora=True)
    script = """
import sys, torch
from pathlib import Path
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.text.prompts import ANSWER

def anonymous():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

torch.set_num_threads(1)
merged = merge(open_base(sys.argv[1]), open_adapter(Path(sys.argv[2]), ANSWER))
before, peak = anonymous(), 0
for name in merged:
    tensor = merged[name]
    peak = max(peak, anonymous() - before)
print(peak, sum(4 * each.size for each in map(merged.get, merged)))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "base"), str(tmp_path / "adapter")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    )
    peak, total = map(int, done.stdout.split()) if done.returncode == 0 else pytest.fail(done.stderr)
    assert total > 150e6
    assert peak < 40e6  # the largest tensor has 4 MB, in fp32


def test_the_adapter_brings_its_prompt(trio: dict[str, Path]) -> None:
    assert open_adapter(trio["answer"], GUIDANCE).prompt == ANSWER


def test_an_adapter_with_half_of_its_factors_is_refused(base: Path, tmp_path: Path) -> None:
    save_variant(base, tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, file)
    with pytest.raises(ExportError, match=r"lacks base_model.*layers\.1\.self_attn\.q_proj\.lora_B\.weight"):
        merge(*opened(base, tmp_path / "adapter"))
