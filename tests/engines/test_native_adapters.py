"""Adapters that rows carry: PEFT's own computation is the witness, unmerged and merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dequantized import load_dequantized
from families import FAMILIES, save_family
from gptq_checkpoint import dequantized, save_gptq
from peft import LoraConfig, PeftModel, get_peft_model
from random_model import save_base
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from edgereason.engines.native import NativeEngine
from edgereason.errors import BundleError, EngineError, UsageError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.quantization.round_to_nearest import Rounding

IDS = np.random.default_rng(2).integers(0, 280, 60).tolist()
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = {"hidden_size": 72, "head_dim": 20, "intermediate_size": 100, "num_attention_heads": 6}

ADAPTERS: dict[str, dict[str, Any]] = {
    "all projections": {"target_modules": TARGETS},
    "some of the fused ones": {"target_modules": ["v_proj", "gate_proj"], "r": 7, "lora_alpha": 3},
    "rank-stabilized": {"target_modules": TARGETS, "use_rslora": True},
    "patterns": {
        "target_modules": TARGETS,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "up_proj": 9},
        "alpha_pattern": {"layers.1.*down_proj": 40, "k_proj": 1},
    },
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


def write_adapter(base: Path, out: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "task_type": "CAUSAL_LM", **settings}
    get_peft_model(model, LoraConfig(**settings)).to(dtype).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapted") / "base"
    save_base(path, **BASE)
    return path


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return {name: write_adapter(base, base.parent / name, **settings) for name, settings in ADAPTERS.items()}


def unmerged(base: Path, adapter: Path | None) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = model if adapter is None else PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return wrapped(torch.tensor([IDS])).logits[0].numpy()


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the logits' range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


def test_each_session_has_the_logits_of_its_own_adapter(base, adapters):
    engine = NativeEngine(base)
    indices = [None, *(engine.load_adapter(path) for path in adapters.values())]
    sessions = [engine.session(adapter=index) for index in indices]
    first = engine.advance([(session, IDS[:40], None) for session in sessions])
    rest = [engine.advance([(session, [token], 1) for session in sessions]) for token in IDS[40:]]
    together = [np.concatenate([first[i], *(step[i] for step in rest)]) for i in range(len(sessions))]
    plain = unmerged(base, None)
    for found, adapter in zip(together, [None, *adapters.values()], strict=True):
        expected = unmerged(base, adapter)
        assert error_of(found, expected) < 1e-4, adapter
        assert adapter is None or error_of(plain, expected) > 1e-2, adapter


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_in_16_bits_are_used_as_they_are(base, dtype, tmp_path):
    adapter = write_adapter(base, tmp_path, dtype, target_modules=TARGETS)
    engine = NativeEngine(base)
    found = engine.session(adapter=engine.load_adapter(adapter)).advance(IDS, every=True)
    assert error_of(found, unmerged(base, adapter)) < 1e-4


def test_an_adapter_equals_the_model_that_it_is_merged_into(base, adapters, tmp_path):
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapters["all projections"]).merge_and_unload().save_pretrained(tmp_path)
    engine = NativeEngine(base)
    found = engine.session(adapter=engine.load_adapter(adapters["all projections"])).advance(IDS, every=True)
    assert error_of(found, NativeEngine(tmp_path).session().advance(IDS, every=True)) < 1e-4


def test_on_quantized_weights_an_adapter_adds_to_what_is_left_of_them(base, adapters, tmp_path):
    """Against PEFT on the dequantized base: what is left is the rounding of activations."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    write_native(tmp_path / "int4", model.config.to_dict(), tensors, Rounding(4))
    load_dequantized(model, tmp_path / "int4")
    model.save_pretrained(tmp_path / "dequantized")
    engine = NativeEngine(tmp_path / "int4")
    for adapter in adapters.values():
        found = engine.session(adapter=engine.load_adapter(adapter)).advance(IDS, every=True)
        expected = unmerged(tmp_path / "dequantized", adapter)
        assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * np.ptp(expected), adapter


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_of_every_family_equal_peft(name, tmp_path):
    save_family(name, tmp_path / "base")
    adapter = write_adapter(tmp_path / "base", tmp_path / "adapter", target_modules="all-linear")
    engine = NativeEngine(tmp_path / "base")
    plain, adapted = engine.session(), engine.session(adapter=engine.load_adapter(adapter))
    found = engine.advance([(plain, IDS, None), (adapted, IDS, None)])
    for logits, reference in zip(found, [None, adapter], strict=True):
        assert error_of(logits, unmerged(tmp_path / "base", reference)) < 1e-3
    assert error_of(found[0], found[1]) > 1e-2


def test_on_a_gptq_checkpoint_an_adapter_sees_inputs_in_their_own_order(tmp_path):
    save_base(tmp_path / "base")
    save_gptq(tmp_path / "base", tmp_path / "gptq", group_size=32, act_order=True)
    adapter = write_adapter(tmp_path / "base", tmp_path / "adapter", target_modules=TARGETS)
    model = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model.load_state_dict(dequantized(tmp_path / "gptq"), strict=False)
    model.save_pretrained(tmp_path / "dequantized")
    engine = NativeEngine(tmp_path / "gptq")
    found = engine.session(adapter=engine.load_adapter(adapter)).advance(IDS, every=True)
    expected = unmerged(tmp_path / "dequantized", adapter)
    assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * np.ptp(expected)


INVOCATION = [7, 11, 5]
INVOKED = [*IDS[:20], *INVOCATION, *IDS[20:30], *INVOCATION, *IDS[30:40]]  # the second one counts


@pytest.fixture(scope="module")
def activated(base: Path) -> Path:
    out = base.parent / "activated"
    return write_adapter(base, out, target_modules=TARGETS, alora_invocation_tokens=INVOCATION)


@pytest.mark.parametrize("ids", [INVOKED, INVOCATION, IDS])
def test_an_activated_adapter_applies_from_its_last_invocation_on(base, activated, ids):
    assert INVOCATION[0] not in IDS  # nor [9, 8], below
    engine = NativeEngine(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        expected = PeftModel.from_pretrained(model, activated)(torch.tensor([ids])).logits[0].numpy()
    session = engine.session(adapter=engine.load_adapter(activated))
    assert error_of(session.advance(ids, every=True), expected) < 1e-4
    start = {len(INVOKED): 33, len(INVOCATION): 0}.get(len(ids), len(ids))
    assert session.adapters == [None] * start + [0] * (len(ids) - start)
    assert engine.token_adapters(0, ids) == session.adapters


@pytest.mark.parametrize("chunk", [256, 7])
def test_activated_rows_stand_beside_others_and_in_any_pieces(base, activated, adapters, chunk, monkeypatch):
    monkeypatch.setattr("edgereason.engines.forward_passes.MAX_BATCHED_TOKENS", chunk)
    engine = NativeEngine(base)
    plain, late = engine.load_adapter(adapters["all projections"]), engine.load_adapter(activated)
    alone = engine.session(adapter=late).advance(INVOKED, every=True)
    sessions = [engine.session(adapter=adapter) for adapter in (late, plain, None, late)]
    found = engine.advance([(sessions[0], INVOKED, None), (sessions[1], IDS, 1), (sessions[2], IDS, 1)])[0]
    np.testing.assert_allclose(found, alone, atol=1e-4)
    once = [*IDS[:30], *INVOCATION, *IDS[30:]]
    pieces = [sessions[3].advance(part, every=True) for part in (once[:10], once[10:30], once[30:40], once[40:])]
    alone = engine.session(adapter=late).advance(once, every=True)
    np.testing.assert_allclose(np.concatenate(pieces), alone, atol=1e-4)


def test_what_comes_before_the_invocation_serves_every_activated_adapter(base, activated, tmp_path):
    """The base alone computes it, once; a saved state knows how far that went."""
    engine = NativeEngine(base)
    other = write_adapter(base, tmp_path, target_modules=["q_proj"], alora_invocation_tokens=[9, 8])
    first, second = engine.load_adapter(activated), engine.load_adapter(other)
    question = engine.session()
    question.advance(IDS[:30])
    for adapter, invocation in ((first, INVOCATION), (second, [9, 8])):
        fork = question.fork()
        fork.adapter = adapter
        found = engine.restore(fork.save()).advance([*invocation, 1, 2])
        expected = engine.session(adapter=adapter).advance([*IDS[:30], *invocation, 1, 2])
        np.testing.assert_allclose(found, expected, atol=1e-4)
        fork.advance([*invocation, 1])
        restored = engine.restore(fork.save())
        assert restored.adapters == fork.adapters
        np.testing.assert_array_equal(restored.advance([2]), fork.advance([2]))


def test_an_unloaded_adapter_is_gone(base, adapters):
    engine = NativeEngine(base)
    index = engine.load_adapter(adapters["one layer"])
    session = engine.session(adapter=index)
    session.advance(IDS[:5])
    engine.unload_adapter(index)
    with pytest.raises(EngineError, match="adapter 0 is not loaded"):
        session.advance([1])
    with pytest.raises(EngineError, match="adapter 0 is not loaded"):
        session.save()
    with pytest.raises(UsageError, match="no adapter 0"):
        engine.unload_adapter(index)
    session.adapter = None
    session.advance([1])
    assert engine.load_adapter(adapters["one layer"]) == 1


# ---- adapters that cannot be used ------------------------------------------------------------------------------------


def change_config(**changes: Any) -> Any:
    def change(path: Path) -> None:
        file = path / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def change_tensor(name: str, value: np.ndarray | None) -> Any:
    def change(path: Path) -> None:
        file = path / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors.pop(name, None)
        save_file(tensors if value is None else {**tensors, name: value}, file)

    return change


Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: (path / "adapter_config.json").unlink(), "it has no adapter_config.json"),
        (lambda path: (path / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetensors"),
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b"cut"), "truncated"),
        (change_config(peft_type="IA3"), "is of the kind 'IA3'"),
        (change_config(use_dora=True), "use_dora = True cannot be applied row by row"),
        (change_config(bias="all"), "bias = 'all' cannot"),
        (change_config(modules_to_save=["lm_head"]), r"modules_to_save = \['lm_head'\] cannot"),
        (change_config(lora_alpha="much"), "lora_alpha is 'much'"),
        (change_config(alpha_pattern={"(": 2}), "which is no expression"),
        (change_config(alpha_pattern=[1]), "alpha_pattern is"),
        (change_config(target_modules="("), "does not say which modules it changes"),
        (change_config(target_modules=["q_proj", "lm_head"]), "lacks base_model.model.lm_head.lora_A.weight"),
        (change_config(alora_invocation_tokens="now"), "alora_invocation_tokens is 'now'"),
        (
            change_config(alora_invocation_tokens=[1, 10**6]),
            r"activated by the tokens \[1, 1000000\], the model\'s vocabulary has",
        ),
        (change_tensor(Q_A, None), "only half of the factors of model.layers.1.self_attn.q_proj"),
        (change_tensor(Q_A, np.full((4, 72), np.nan, np.float32)), "NaN or infinite values in .*q_proj.lora_A"),
        (change_tensor(Q_A, np.ones((5, 72), np.float32)), "have ranks 5 and 4"),
        (change_tensor(Q_A, np.ones((4, 71), np.float32)), r"q_proj is \[120, 71\], the model's \[120, 72\]"),
        (change_tensor(Q_A, np.ones((4, 72), np.int32)), "no LoRA factor"),
        (change_tensor("base_model.model.lm_head.weight", np.ones((2, 2), np.float32)), "lm_head.weight, which is no"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_and_leaves_nothing(base, adapters, change, message, tmp_path):
    path = tmp_path / "adapter"
    shutil.copytree(adapters["one layer"], path)
    change(path)
    engine = NativeEngine(base)
    with pytest.raises(BundleError, match=message):
        engine.load_adapter(path)
    assert engine.load_adapter(adapters["one layer"]) == 0


def test_adapters_of_shared_tables_have_to_be_merged(base, adapters, tmp_path):
    saved_by_peft = write_adapter(base, tmp_path / "embeddings", target_modules=["embed_tokens"])
    retargeted = tmp_path / "head"
    shutil.copytree(adapters["one layer"], retargeted)
    tensors = load_file(retargeted / "adapter_model.safetensors")
    tensors = {name.replace("model.layers.1.self_attn.q_proj", "lm_head"): value for name, value in tensors.items()}
    save_file(tensors, retargeted / "adapter_model.safetensors")
    for path, message in [
        (saved_by_peft, "no LoRA factor of a linear layer"),
        (retargeted, "changes lm_head: embeddings and LM head"),
    ]:
        with pytest.raises(BundleError, match=message) as caught:
            NativeEngine(base).load_adapter(path)
        assert "merged" in caught.value.cure


COMPLETE: dict[str, dict[str, Any]] = {
    **ADAPTERS,
    "an expression": {"target_modules": r".*\.(q_proj|up_proj)"},
    "all linear layers": {"target_modules": "all-linear"},
    "all but some": {"target_modules": "all-linear", "exclude_modules": ["down_proj", "model.layers.0.mlp.up_proj"]},
    "all but an expression": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.1\..*v_proj"},
    "whole names": {"target_modules": ["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]},
    "layers of a pattern": {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
}


@pytest.mark.parametrize("name", COMPLETE)
def test_an_adapter_has_what_its_configuration_names_or_is_refused(base, name, tmp_path):
    """As PEFT saves it, it is complete; without any one module, the first tensor that is missing is named."""
    adapter = write_adapter(base, tmp_path / "adapter", **COMPLETE[name])
    # PEFT writes what "all-linear" stands for; other programs write the word.
    change_config(target_modules=COMPLETE[name]["target_modules"])(adapter)
    engine = NativeEngine(base)
    engine.load_adapter(adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    modules = sorted({tensor.partition(".lora_")[0] for tensor in tensors})
    for module in modules[1::3] or modules:
        save_file({each: value for each, value in tensors.items() if not each.startswith(f"{module}.lora")}, file)
        with pytest.raises(BundleError, match="changes nothing" if len(modules) == 1 else f"lacks {module}.lora_A"):
            engine.load_adapter(adapter)


def test_an_adapter_of_a_deeper_base_is_named(base, tmp_path):
    save_base(tmp_path / "deeper", **BASE, num_hidden_layers=3)
    adapter = write_adapter(tmp_path / "deeper", tmp_path / "adapter", target_modules=TARGETS)
    with pytest.raises(BundleError, match=r"changes model.layers.2.*, which this model does not have") as caught:
        NativeEngine(base).load_adapter(adapter)
    assert "deeper" in caught.value.cure
