"""The shared layout: one base in int4, and each stage's adapter beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_variants import of_new_tokens
from dequantized import load_dequantized
from peft import LoraConfig, PeftModel, get_peft_model
from random_model import save_adapter, save_base, save_variant
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from edgereason import load, load_model
from edgereason.bundle import STAGES, Bundle
from edgereason.errors import BundleError, EdgeReasonError
from edgereason.export import export
from edgereason.text.prompts import ANSWER, Prompt

IDS = np.random.default_rng(4).integers(0, 280, 40).tolist()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_computes_its_adapter_on_the_rounded_base(shared_bundle, trio, stage, tmp_path):
    """Against PEFT on the dequantized base: what is left is the rounding of activations."""
    model = LlamaForCausalLM.from_pretrained(trio["base"], dtype=torch.float32)
    load_dequantized(model, shared_bundle / "base")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(model, trio[stage])(torch.tensor([IDS])).logits[0].numpy()
    with load_model(shared_bundle / stage) as model:
        found = model.logits(IDS)
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * np.ptp(expected)


def test_both_stages_have_one_engine(shared_bundle):
    with load(shared_bundle) as reasoner:
        guidance, answer = (reasoner.models[stage] for stage in STAGES)
        assert guidance.engine is answer.engine
        assert guidance.adapter != answer.adapter
        for stage, model in reasoner.models.items():
            with load_model(shared_bundle / stage) as alone:
                np.testing.assert_array_equal(model.logits(IDS), alone.logits(IDS))


def test_the_bundle_holds_one_base_and_adapters_in_16_bits_and_no_paths(shared_bundle, native_bundle, trio):
    shared, merged = Bundle.open(shared_bundle), Bundle.open(native_bundle)
    assert shared.files["base/model.safetensors"].bytes == merged.files["answer/model.safetensors"].bytes
    assert shared.model("guidance") == shared.model("answer") == shared_bundle / "base"
    for stage in STAGES:
        stored = load_file(shared_bundle / stage / "adapter_model.safetensors")
        source = load_file(trio[stage] / "adapter_model.safetensors")
        assert stored.keys() == source.keys()
        assert all(torch.equal(tensor, source[name].half()) for name, tensor in stored.items())
        assert str(trio["base"]) not in (shared_bundle / stage / "adapter_config.json").read_text()


def test_the_same_inputs_give_the_same_bytes(shared_bundle, trio, tmp_path):
    again = export(trio["base"], trio["guidance"], trio["answer"], tmp_path / "again", layout="shared", verify=False)
    assert again.files == Bundle.open(shared_bundle).files


@pytest.mark.parametrize("file", ["base/model.safetensors", "answer/adapter_model.safetensors"])
def test_a_file_that_was_altered_is_noticed(shared_bundle, tmp_path, file):
    copy = Path(shutil.copytree(shared_bundle, tmp_path / "copy"))
    content = bytearray((copy / file).read_bytes())
    content[-1] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(BundleError, match="wrong checksum"):
        load(copy)
    (copy / file).unlink()
    with pytest.raises(BundleError, match="is missing"):
        load(copy)


def gguf_bundle(trio: dict[str, Path], tmp_path: Path) -> Bundle:
    paths = (trio["base"], trio["guidance"], trio["answer"], tmp_path / "out")
    return export(*paths, layout="shared", format="gguf", verify=False)


def test_llama_cpp_has_one_model_with_two_adapters(trio, tmp_path):
    bundle = gguf_bundle(trio, tmp_path)
    assert {"base/model.gguf", "guidance/adapter.gguf", "answer/adapter.gguf"} <= bundle.files.keys()
    with load(bundle.path) as reasoner, load_model(bundle.model("answer")) as base:
        guidance, answer = (reasoner.models[stage] for stage in STAGES)
        assert guidance.engine is answer.engine
        # A context that has served one adapter serves another, and the base alone, as if it were new.
        expected = {stage: load_model(bundle.path / stage).logits(IDS) for stage in STAGES}
        for _ in range(2):
            for stage, model in reasoner.models.items():
                np.testing.assert_array_equal(model.logits(IDS), expected[stage])
        session = answer.engine.session(len(IDS))
        np.testing.assert_array_equal(session.advance(IDS, every=True), base.logits(IDS))
        assert reasoner.ask("How many?", max_new_tokens=4).timings.answer.new_tokens == 4


@pytest.mark.parametrize("content", [b"", b"GGUF", "base"])
def test_a_gguf_file_that_is_no_adapter_is_refused(trio, tmp_path, content):
    bundle = gguf_bundle(trio, tmp_path)
    file = bundle.path / "answer" / "adapter.gguf"
    file.write_bytes((bundle.path / "base/model.gguf").read_bytes() if content == "base" else content)
    with pytest.raises(BundleError, match="is not a whole GGUF file"):
        load_model(bundle.path / "answer")


def refused(trio, tmp_path, **options) -> str:
    out = tmp_path / "out"
    with pytest.raises(EdgeReasonError) as caught:
        export(trio["base"], trio["guidance"], trio["answer"], out, layout="shared", **options, verify=False)
    assert not out.exists()
    return str(caught.value)


def write_adapter(base: Path, out: Path, prompt: Prompt = ANSWER, **settings: object) -> Path:
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{"r": 2, "task_type": "CAUSAL_LM", "init_lora_weights": False, **settings})
    get_peft_model(model, config).save_pretrained(out, save_embedding_layers=False)
    (out / "prompt.json").write_text(json.dumps(prompt.to_json()))
    return out


def test_what_cannot_be_shared_is_refused(trio, tmp_path):
    assert "has no shared layout" in refused(trio, tmp_path, format="onnx")
    assert "Ollama cannot share" in refused(trio, tmp_path, format="gguf", ollama=True)
    assert "one base for both stages" in refused(trio, tmp_path, answer_base=trio["base"])
    adapter = write_adapter(trio["base"], tmp_path / "dora", target_modules=["q_proj"], use_dora=True)
    assert "use_dora = True cannot be applied row by row" in refused({**trio, "answer": adapter}, tmp_path)
    save_base(tmp_path / "base", tie_word_embeddings=False)
    adapter = write_adapter(tmp_path / "base", tmp_path / "head", target_modules=["lm_head"])
    message = refused({"base": tmp_path / "base", "guidance": trio["guidance"], "answer": adapter}, tmp_path)
    assert "changes lm_head, which both stages share" in message


@pytest.mark.parametrize("layout", ["merged", "shared"])
@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"target_modules": "all-linear"}, "layers.0.mlp.up_proj.lora_A.weight"),
        ({"target_modules": "all-linear"}, "layers.1.mlp.up_proj.lora_B.weight"),
        ({"layers_to_transform": [1]}, "layers.1.self_attn.q_proj.lora_A.weight"),
        ({"rank_pattern": {"q_proj": 2}}, "layers.0.self_attn.q_proj.lora_B.weight"),
    ],
)
def test_an_adapter_without_a_tensor_is_refused_before_any_work(trio, tmp_path, layout, changes, lost):
    save_variant(trio["base"], tmp_path / "adapter", **changes)
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.endswith(lost)}
    save_file(tensors, file, {"format": "pt"})
    for format in ("native", "gguf"):
        with pytest.raises(EdgeReasonError, match=lost.rpartition(".lora_")[0]) as caught:
            export(trio["base"], trio["guidance"], tmp_path / "adapter", tmp_path / "out", layout=layout, format=format)
        assert "lacks" in str(caught.value) or "half of the factors" in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"modules_to_save": ["embed_tokens"]}, "embed_tokens.weight"),
        ({"modules_to_save": ["norm"]}, "norm.weight"),
        ({"trainable_token_indices": [3, 5]}, "trainable_tokens_delta"),
        ({"use_dora": True}, "layers.1.self_attn.q_proj.lora_magnitude_vector"),
    ],
)
def test_what_is_trained_beside_the_factors_is_complete_too(trio, tmp_path, changes, lost):
    save_variant(trio["base"], tmp_path / "adapter", **changes)
    file = tmp_path / "adapter/adapter_model.safetensors"
    save_file({name: each for name, each in load_file(file).items() if not name.endswith(lost)}, file, {"format": "pt"})
    with pytest.raises(EdgeReasonError, match=rf"lacks base_model.*{lost}"):
        export(trio["base"], trio["guidance"], tmp_path / "adapter", tmp_path / "out")


@pytest.mark.parametrize("way", of_new_tokens([]))
def test_new_tokens_are_merged_and_not_shared(trio, tmp_path, way):
    old = json.loads((trio["base"] / "config.json").read_text())["vocab_size"]
    save_variant(trio["base"], tmp_path / "adapter", old + 2, **of_new_tokens([old, old + 1])[way])
    with pytest.raises(EdgeReasonError) as caught:
        export(trio["base"], trio["guidance"], tmp_path / "adapter", tmp_path / "out", layout="shared")
    assert "--layout merged" in caught.value.cure


def test_an_activated_adapter_needs_a_prompt_that_invokes_it(trio, tmp_path):
    with load_model(trio["base"]) as model:
        invocation = model.tokenizer.encode("\nAnswer:")
    settings = {"target_modules": ["q_proj"], "alora_invocation_tokens": invocation}
    adapter = write_adapter(trio["base"], tmp_path / "silent", **settings)
    assert "which its prompt does not have" in refused({**trio, "answer": adapter}, tmp_path)
    prompt = Prompt("", "{question}\n{guidance}\nAnswer:", "{question}\nAnswer:")
    adapter = write_adapter(trio["base"], tmp_path / "invoked", prompt, **settings)
    assert "--format native" in refused({**trio, "answer": adapter}, tmp_path, format="gguf")
    export(trio["base"], trio["guidance"], adapter, tmp_path / "bundle", layout="shared", verify=False)
    with load(tmp_path / "bundle") as reasoner:
        assert reasoner.ask("How many?", max_new_tokens=5).timings.answer.new_tokens


def test_an_adapter_directory_beside_its_base_is_a_model(tmp_path, trio):
    shutil.copytree(trio["base"], tmp_path / "base")
    save_adapter(tmp_path / "base", tmp_path / "adapter", ANSWER)
    shutil.copy(tmp_path / "base/tokenizer.json", tmp_path / "adapter")
    with load_model(tmp_path / "adapter") as model, load_model(tmp_path / "base") as base:
        assert model.adapter is not None
        assert np.abs(model.logits(IDS) - base.logits(IDS)).max() > 1e-2
