"""Base and adapter that do not belong together, and adapters that cannot be merged: each is a sentence with a cure."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_model import save_base, save_variant
from safetensors.torch import load_file, save_file

from edgereason.errors import ExportError
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.pairing import check_pairing
from edgereason.text.prompts import ANSWER

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("originals")
    save_base(directory / "base")
    save_variant(directory / "base", directory / "adapter")
    save_variant(directory / "base", directory / "embeddings", target_modules=["embed_tokens"])
    return directory


@pytest.fixture
def pair(originals: Path, tmp_path: Path) -> Path:
    """`base`, `adapter` and `embeddings`, free to be broken."""
    return Path(shutil.copytree(originals, tmp_path / "pair"))


def refusal(base: Path, adapter: Path) -> str:
    def pair() -> None:
        opened = open_base(base), open_adapter(adapter, ANSWER)
        check_pairing(*opened)
        merge(*opened)

    with pytest.raises(ExportError) as caught:
        pair()
    assert caught.value.cure
    return str(caught.value)


def configure(file: str = "adapter/adapter_config.json", **changes: Any) -> Damage:
    def damage(pair: Path) -> None:
        (pair / file).write_text(json.dumps({**json.loads((pair / file).read_text()), **changes}))

    return damage


def change_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(pair: Path) -> None:
        file = pair / "adapter/adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return damage


def change_tokenizer(where: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """Give the adapter a tokenizer of its own, and change it or the base's."""

    def damage(pair: Path) -> None:
        shutil.copy(pair / "base/tokenizer.json", pair / "adapter")
        file = pair / where / "tokenizer.json"
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))

    return damage


def swap_two_tokens(tokenizer: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    vocab["A"], vocab["B"] = vocab["B"], vocab["A"]


def swap_two_merges(tokenizer: dict[str, Any]) -> None:
    merges = tokenizer["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def add_a_token(tokenizer: dict[str, Any]) -> None:
    taken = [*tokenizer["model"]["vocab"].values(), *(each["id"] for each in tokenizer["added_tokens"])]
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": max(taken) + 1, "content": "<new>"})


def zeros(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: t * 0 if f"lora_{part}" in name else t for name, t in tensors.items()}


def infinite(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    next(iter(tensors.values()))[0, 0] = torch.inf
    return tensors


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (configure(alora_invocation_tokens=[1, 2]), "an activated LoRA .*\n.*--layout shared"),
        (configure(target_parameters=["x"]), "target_parameters cannot be merged"),
        (configure(layer_replication=[[0, 2]]), "layer_replication cannot be merged"),
        (configure(init_lora_weights="pissa_niter_4"), "'pissa_niter_4' training has changed the base"),
        (configure(lora_alpha=0), "lora_alpha is 0"),
        (configure(r=8), "does not fit its base: size mismatch"),
        (configure(target_modules=["q_proj"]), "has .*, which its configuration does not explain"),
        (configure(use_dora=True), "lacks .*lora_magnitude_vector"),
        (change_tensors(zeros("B")), "changes nothing: in every layer a factor is zero"),
        (change_tensors(zeros("A")), "changes nothing: in every layer a factor is zero"),
        (change_tensors(infinite), "has NaN or infinite values in "),
        (change_tokenizer("adapter", swap_two_tokens), "differs from that of .*: 'A' is"),
        (change_tokenizer("base", swap_two_tokens), "differs from that of .*: 'A' is"),
        (change_tokenizer("adapter", swap_two_merges), "has other merges than that of"),
        (change_tokenizer("adapter", add_a_token), r"adapter.tokenizer\.json has \d+ tokens, the model has \d+\."),
        (configure("base/config.json", num_hidden_layers=3), r"lacks base_model\.model\.model\.layers\.2\."),
    ],
)
def test_what_cannot_be_merged_is_named(pair: Path, damage: Damage, message: str) -> None:
    damage(pair)
    assert re.search(message, refusal(pair / "base", pair / "adapter"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, r"base lacks model\.layers\.2\."),
        ({"hidden_act": "unknown"}, r"Building the model of .*config\.json failed in transformers: \S"),
        ({"num_attention_heads": "many"}, r"Building the model of .*config\.json failed in "),
        ({"vocab_size": 999}, r"embed_tokens\.weight is \[\d+, 64\], .* be \[999, 64\]"),
    ],
)
def test_a_base_that_is_not_what_its_configuration_says_is_named(
    pair: Path, change: dict[str, Any], message: str
) -> None:
    configure("base/config.json", **change)(pair)
    with pytest.raises(ExportError, match=message):
        merge(open_base(pair / "base"))


def test_an_adapter_of_embeddings_for_another_vocabulary_is_refused(pair: Path) -> None:
    save_base(pair / "larger", vocab_size=330)
    file = pair / "embeddings/adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "base_layer" not in name}
    save_file(tensors, file)
    assert "its model.embed_tokens is" in refusal(pair / "larger", pair / "embeddings")


def test_an_adapter_of_a_base_with_other_numbers_is_refused(pair: Path) -> None:
    trained_on = pair / "base"
    other = Path(shutil.copytree(trained_on, pair / "other"))
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    configure(base_model_name_or_path=str(trained_on))(pair)
    assert f'names "{trained_on}" as its base, whose weights differ' in refusal(other, pair / "adapter")


@pytest.mark.parametrize(
    ("recorded", "known", "good"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct", False),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B", True),
        ("unsloth/Llama-3.2-1B-unsloth-bnb-4bit", "meta-llama/Llama-3.2-1B", True),
        ("TheBloke/Mistral-7B-v0.1-GPTQ", "mistralai/Mistral-7B-v0.1", True),
        ("/nowhere/my-base", "mistralai/Mistral-7B-v0.1", True),  # a path on another machine tells nothing
    ],
)
def test_the_recorded_base_has_to_be_the_given_one(pair: Path, recorded: str, known: str, good: bool) -> None:
    configure(base_model_name_or_path=recorded)(pair)
    configure("base/config.json", _name_or_path=known)(pair)
    if good:
        check_pairing(open_base(pair / "base"), open_adapter(pair / "adapter", ANSWER))
    else:
        assert f'names "{recorded}" as its base, this one is "{known}"' in refusal(pair / "base", pair / "adapter")


def test_more_tokens_are_welcome_when_the_adapter_has_rows_for_them(pair: Path) -> None:
    vocab = json.loads((pair / "base/config.json").read_text())["vocab_size"]
    save_variant(pair / "base", pair / "adapter", vocab + 1)
    change_tokenizer("adapter", add_a_token)(pair)
    opened = open_base(pair / "base"), open_adapter(pair / "adapter", ANSWER)
    check_pairing(*opened)
    assert merge(*opened).config["vocab_size"] == vocab + 1


def test_one_layer_that_training_left_alone_is_no_reason_to_refuse(pair: Path) -> None:
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    change_tensors(lambda tensors: {**tensors, first: tensors[first] * 0})(pair)
    check_pairing(open_base(pair / "base"), open_adapter(pair / "adapter", ANSWER))


def test_a_base_with_nan_is_named_when_its_weight_is_asked_for(pair: Path) -> None:
    weights = load_file(pair / "base/model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    save_file(weights, pair / "base/model.safetensors", {"format": "pt"})
    merged = merge(open_base(pair / "base"), open_adapter(pair / "adapter", ANSWER))
    with pytest.raises(ExportError, match=r"model\.norm\.weight of .*base has NaN"):
        merged["model.norm.weight"]
