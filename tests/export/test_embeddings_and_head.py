"""Embeddings and LM head in every format: heads of their own, added tokens, more or fewer rows than tokens.

PEFT's logits for base and unmerged adapter are the witness.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_variants import of_new_tokens
from merged_model import relative_error
from peft import PeftModel
from random_model import save_adapter, save_base, save_variant
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from edgereason import load, load_model
from edgereason.checkpoints.gguf_tokenizer import GgufTokenizer
from edgereason.checkpoints.llama_library import llama_library, without_weights
from edgereason.errors import ExportError, UsageError
from edgereason.export import export
from edgereason.export.inputs.adapter import open_adapter
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.pairing import check_pairing
from edgereason.text.prompts import ANSWER, GUIDANCE

FORMATS: list[dict[str, Any]] = [
    {"format": "native", "bits": 16},
    {"format": "native", "layout": "shared", "bits": 16},
    {"format": "gguf", "bits": 16},
    {"format": "onnx", "bits": 16},
]
IMAGE = "<image_soft_token>"
# Untrained models are unsure between many tokens: what 16 bits round decides more often than in trained ones.
LENIENT = tuple(
    f"{rung}.{limit}"
    for rung in ("stored", "quantized", "engine")
    for limit in ("greedy=0", "top1=0.9", "kl=0.01", "kl_p99=0.1")
)


def save_all(directory: Path, **changes: object) -> None:
    save_base(directory / "base", **changes)
    for seed, (name, prompt) in enumerate({"guidance": GUIDANCE, "answer": ANSWER}.items(), start=1):
        save_adapter(directory / "base", directory / name, prompt, seed)


def change_tokenizer(directory: Path, token: str, special: bool = True) -> int:
    """Add a token that the model has no row for; returns its id."""
    file = directory / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    id_ = 1 + max([*tokenizer["model"]["vocab"].values(), *(each["id"] for each in tokenizer["added_tokens"])])
    if special:
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": id_, "content": token})
    else:
        tokenizer["model"]["vocab"][token] = id_
    file.write_text(json.dumps(tokenizer))
    return int(id_)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer has a token for images, which the model has no row for."""
    directory = tmp_path_factory.mktemp("text model")
    save_all(directory)
    change_tokenizer(directory / "base", IMAGE)
    return directory


def exported(directory: Path, out: Path, **options: Any) -> Path:
    export(directory / "base", directory / "guidance", directory / "answer", out, verify=False, **options)
    return out


def reference(directory: Path, ids: list[int], vocab: int | None = None) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    if vocab:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, directory / "guidance").eval()(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_a_token_without_a_row_is_refused_where_a_text_has_it(
    text_model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    out = exported(text_model, tmp_path / "out", **options)
    rows = json.loads((text_model / "base/config.json").read_text())["vocab_size"]
    ids = list(range(3, 40))
    with load_model(out / "guidance") as model:
        assert model.tokenizer.encode(IMAGE) == [rows]
        assert relative_error(model.logits(ids), reference(text_model, ids)) < 0.01
    with load(out) as reasoner:
        assert reasoner.ask(f"How many {IMAGE}?", max_new_tokens=4)  # in a question it is text
        with pytest.raises(UsageError, match=f"the token {rows}, and the model has embeddings for {rows} tokens"):
            reasoner.ask(f"How many {IMAGE}?", max_new_tokens=4, special_tokens=True)


@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_rows_without_a_token_are_written_as_nothing(tmp_path: Path, options: dict[str, Any], tied: bool) -> None:
    save_all(tmp_path, vocab_size=384, tie_word_embeddings=tied)
    out = exported(tmp_path, tmp_path / "out", **options)
    ids = [*range(3, 40), 383]
    with load_model(out / "guidance") as model:
        found = model.logits(ids)
        assert found.shape == (len(ids), 384)
        assert relative_error(found, reference(tmp_path, ids)) < 0.01
        known = model.tokenizer.encode("12 apples")
        assert model.tokenizer.decode([*known, 380, 383]) == "12 apples"
        stream = model.tokenizer.stream()
        assert "".join(map(stream.push, [*known, 380, 383])).strip() == "12 apples"
    if options["format"] == "gguf":
        with without_weights(out / "guidance/model.gguf") as opened:
            inside = GgufTokenizer(llama_library(), opened, out / "guidance/model.gguf")
            assert inside.decode([*known, 380, 383]) == "12 apples"
    with load(out) as reasoner:
        assert reasoner.ask("How many?", max_new_tokens=4)


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_a_head_that_is_tied_in_name_only_is_exported_with_the_proof(tmp_path: Path, options: dict[str, Any]) -> None:
    save_all(tmp_path)
    file = tmp_path / "base/model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].flip(0).contiguous()}, file)
    for stage in ("guidance", "answer"):  # again, on this base
        save_adapter(tmp_path / "base", tmp_path / stage, GUIDANCE, seed=3)
    inputs = [tmp_path / name for name in ("base", "guidance", "answer")]
    bundle = export(*inputs, tmp_path / "out", prompts=questions(tmp_path), thresholds=LENIENT, **options)
    assert json.loads((bundle.model("guidance") / "config.json").read_text())["tie_word_embeddings"] is False
    ids = list(range(3, 40))
    with load_model(tmp_path / "out/guidance") as model:
        assert relative_error(model.logits(ids), reference(tmp_path, ids)) < 0.01


@pytest.mark.parametrize("options", [each for each in FORMATS if "layout" not in each], ids=str)
@pytest.mark.parametrize("way", ["saved embeddings", "the new tokens", "both tables"])
def test_added_tokens_are_exported_with_the_proof(tmp_path: Path, options: dict[str, Any], way: str) -> None:
    save_base(tmp_path / "base")
    old = json.loads((tmp_path / "base/config.json").read_text())["vocab_size"]
    for seed, stage in enumerate(("guidance", "answer")):
        save_variant(tmp_path / "base", tmp_path / stage, old + 1, seed, **of_new_tokens([old])[way])
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tmp_path / "base" / name, tmp_path / stage / name)
        change_tokenizer(tmp_path / stage, "<think>")
    inputs = [tmp_path / name for name in ("base", "guidance", "answer")]
    export(*inputs, tmp_path / "out", prompts=questions(tmp_path), thresholds=LENIENT, **options)
    ids = [*range(3, 40), old, 5]
    with load_model(tmp_path / "out/guidance") as model:
        assert model.tokenizer.encode("<think>") == [old]
        assert relative_error(model.logits(ids), reference(tmp_path, ids, old + 1)) < 0.01


def questions(directory: Path) -> Path:
    (directory / "questions.txt").write_text("Tom has 12 apples.\nHow many are left?")
    return directory / "questions.txt"


def refusal(directory: Path) -> str:
    with pytest.raises(ExportError) as caught:
        check_pairing(open_base(directory / "base"), open_adapter(directory / "guidance", GUIDANCE))
    assert caught.value.cure
    return caught.value.what


def test_a_token_that_texts_use_needs_a_row(text_model: Path, trio: dict[str, Path], tmp_path: Path) -> None:
    for name in ("prompt", "end"):
        shutil.copytree(text_model, tmp_path / name)
    shutil.copytree(trio["base"].parent, tmp_path / "plain")
    prompt = tmp_path / "prompt/guidance/prompt.json"
    prompt.write_text(json.dumps({**json.loads(prompt.read_text()), "user": f"{IMAGE}{{question}}"}))
    config = tmp_path / "end/base/tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": IMAGE}))
    change_tokenizer(tmp_path / "plain/base", "zz", special=False)
    for name in ("prompt", "end"):
        assert f"has the token '{IMAGE}'" in refusal(tmp_path / name)
    assert "has the token 'zz'" in refusal(tmp_path / "plain")
    check_pairing(open_base(text_model / "base"), open_adapter(text_model / "guidance", GUIDANCE))


def test_a_token_that_training_has_added_needs_a_row(text_model: Path, tmp_path: Path) -> None:
    shutil.copytree(text_model, tmp_path / "pair")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(text_model / "base" / name, tmp_path / "pair/guidance" / name)
    check_pairing(open_base(tmp_path / "pair/base"), open_adapter(tmp_path / "pair/guidance", GUIDANCE))
    change_tokenizer(tmp_path / "pair/guidance", "<think>")
    assert "tokens, the model has" in refusal(tmp_path / "pair")
