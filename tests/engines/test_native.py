"""The native engine against transformers in float32, on random Llama models with odd sizes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dequantized import load_dequantized
from transformers import LlamaConfig, LlamaForCausalLM

import edgereason.kernels.cpu as cpu
from edgereason.engines.native import NativeEngine
from edgereason.errors import ContextError, EngineError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.quantization.round_to_nearest import Rounding

IDS = np.random.default_rng(0).integers(0, 211, 90).tolist()

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "untied, odd head": {"head_dim": 20},
    "one KV head": {"num_key_value_heads": 1, "intermediate_size": 37},
    "all KV heads": {"num_key_value_heads": 6, "num_hidden_layers": 1},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


def random_llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 211,
        "hidden_size": 72,
        "intermediate_size": 100,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).float().eval()


def reference(model: LlamaForCausalLM, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the logits' range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_logits_equal_transformers(variant, tmp_path):
    model = random_llama(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    engine, expected = NativeEngine(tmp_path), reference(model, IDS)
    assert relative_error(engine.session().advance(IDS, every=True), expected) < 1e-4
    assert relative_error(in_pieces(engine, IDS), expected) < 1e-4


def in_pieces(engine: NativeEngine, ids: list[int]) -> np.ndarray:
    """Logits after each of `ids`, by a prefill, a few single tokens, and another prefill."""
    session = engine.session()
    pieces = [session.advance(ids[:37], every=True)]
    pieces += [session.advance([token]) for token in ids[37:50]]
    pieces.append(session.advance(ids[50:], every=True))
    assert session.length == len(ids)
    return np.concatenate(pieces)


@pytest.mark.parametrize("isa", cpu.isas())
def test_all_instruction_sets_give_the_same_logits(isa, tmp_path):
    model = random_llama()
    model.save_pretrained(tmp_path)
    cpu.use_isa(isa)
    try:
        assert relative_error(in_pieces(NativeEngine(tmp_path), IDS), reference(model, IDS)) < 1e-4
    finally:
        cpu.use_isa(None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sharded_directories_in_16_bits_open(dtype, tmp_path):
    random_llama().to(dtype).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    # Loaded again, because `.to` rounds the rotary embedding's frequencies, too.
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert relative_error(NativeEngine(tmp_path).session().advance(IDS, every=True), reference(model, IDS)) < 1e-4


def test_tensors_may_be_of_several_float_types(tmp_path):
    model = random_llama()
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.bfloat16 if "q_proj" in name or "norm" in name else torch.float16)
    model.save_pretrained(tmp_path)
    expected = reference(model.float(), IDS)
    assert relative_error(NativeEngine(tmp_path).session().advance(IDS, every=True), expected) < 1e-4


def write_model(model: LlamaForCausalLM, out: Path, bits: int, group_size: int = 32) -> None:
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    write_native(out, json.loads(model.config.to_json_string()), tensors, Rounding(bits, group_size))


@pytest.mark.parametrize("tied", [True, False])
def test_16_bit_files_equal_the_model_in_float16(tied, tmp_path):
    model = random_llama(tie_word_embeddings=tied)
    write_model(model, tmp_path, 16)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data = parameter.data.half().float()
    assert relative_error(in_pieces(NativeEngine(tmp_path), IDS), reference(model, IDS)) < 1e-4


@pytest.mark.parametrize(("bits", "group_size", "tied"), [(4, 32, True), (8, 32, False), (4, 64, False)])
def test_quantized_files_equal_the_dequantized_model(bits, group_size, tied, tmp_path):
    """What is left is the rounding of activations: transformers computes the dequantized weights in float32."""
    model = random_llama(tie_word_embeddings=tied, initializer_range=0.08)
    write_model(model, tmp_path, bits, group_size)
    load_dequantized(model, tmp_path)
    engine, expected = NativeEngine(tmp_path), reference(model, IDS)
    for found in (engine.session().advance(IDS, every=True), in_pieces(engine, IDS)):
        assert np.sqrt(((found - expected) ** 2).mean()) < 0.02 * np.ptp(expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_pieces_of_a_prompt_give_what_the_whole_gives(bits, rows_as_if_alone, tmp_path):
    write_model(random_llama(), tmp_path, bits)
    engine = NativeEngine(tmp_path)
    np.testing.assert_array_equal(in_pieces(engine, IDS), engine.session().advance(IDS, every=True))


def test_pieces_of_few_rows_give_the_same_whatever_their_size(engine):
    """Guessed tokens are checked in passes of several rows, and have to be those of decoding one by one."""
    session = engine.session()
    session.advance(IDS[:40])
    one_by_one = session.fork()
    expected = np.concatenate([one_by_one.advance([token]) for token in IDS[40:]])
    found = np.concatenate([session.advance(IDS[i : i + 32], every=True) for i in range(40, len(IDS), 32)])
    np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeEngine:
    directory = tmp_path_factory.mktemp("quantized")
    write_model(random_llama(), directory, 4)
    return NativeEngine(directory)


def test_sessions_in_several_threads_do_not_disturb_each_other(engine, rows_as_if_alone):
    prompts = [IDS[i : i + 20] for i in range(0, 80, 20)]
    expected = [engine.session().advance(ids, every=True) for ids in prompts]
    wrong: list[int] = []

    def run(index: int) -> None:
        for _ in range(5):
            session = engine.session()
            found = [session.advance([token]) for token in prompts[index]]
            if not np.array_equal(np.concatenate(found), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_prompts_longer_than_a_chunk_are_computed_in_pieces(engine, rows_as_if_alone, monkeypatch):
    expected = engine.session().advance(IDS, every=True)
    monkeypatch.setattr("edgereason.engines.forward_passes.MAX_BATCHED_TOKENS", 17)
    np.testing.assert_array_equal(engine.session().advance(IDS, every=True), expected)
    np.testing.assert_array_equal(engine.session().advance(IDS), expected[-1:])


def test_a_session_ends_at_its_capacity(engine):
    with pytest.raises(ContextError, match="129 tokens are asked for, the model's context holds 128"):
        engine.session(129)
    session = engine.session(10)
    session.advance(IDS[:8])
    with pytest.raises(ContextError, match="11 tokens do not fit into a session of 10"):
        session.advance(IDS[:3])
    assert session.length == 8
    assert session.advance(IDS[:2]).shape == (1, 211)


def test_closed_sessions_and_engines_say_so(tmp_path):
    write_model(random_llama(num_hidden_layers=1), tmp_path, 8)
    engine = NativeEngine(tmp_path)
    session = engine.session()
    session.close()
    session.close()
    with pytest.raises(EngineError, match="session is closed"):
        session.advance([1])
    other = engine.session()
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="engine is closed"):
        other.advance([1])
    with pytest.raises(EngineError, match="engine is closed"):
        engine.session()


def test_an_empty_step_and_strange_ids_are_refused(engine):
    for ids in ([], [211], [-1]):
        with pytest.raises(ValueError, match="ids"):
            engine.session().advance(ids)


def test_the_single_file_opens_too(tmp_path):
    write_model(random_llama(num_hidden_layers=1), tmp_path, 4)
    assert NativeEngine(tmp_path / "model.safetensors").session().advance([1]).shape == (1, 211)


def test_an_unknown_instruction_set_is_an_engine_error(tmp_path, monkeypatch):
    write_model(random_llama(num_hidden_layers=1), tmp_path, 4)
    monkeypatch.setenv("EDGEREASON_ISA", "mmx")
    monkeypatch.setattr("edgereason.kernels.cpu.isa", lambda: cpu.use_isa(None))  # choose again
    with pytest.raises(EngineError, match="EDGEREASON_ISA"):
        NativeEngine(tmp_path)
