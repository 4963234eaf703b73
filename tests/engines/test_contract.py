"""What every engine promises, in its full-precision form: the logits of transformers, however they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from merged_model import Array, random_ids, reference_logits, relative_error, save_merged
from transformers import LlamaForCausalLM

from edgereason.bundle import Sampling
from edgereason.decoding.sampling import Sampler
from edgereason.engines import open_engine
from edgereason.engines.base import Engine
from edgereason.errors import ContextError, EngineError, UsageError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.formats.onnx_writer import write_onnx
from edgereason.export.gguf import write_gguf
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.merge import merge
from edgereason.export.quantization.round_to_nearest import Rounding

# Of the logits' range. In full precision, native bundles and GGUF store float16 weights; llama.cpp also computes in it.
TOLERANCE = {"native": 2e-3, "llama.cpp": 5e-3, "onnx": 1e-5}

SHAPES: dict[str, dict[str, object]] = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False, "num_key_value_heads": 4, "head_dim": 32},
    "llama3": {
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}


def store_native(source: Path, out: Path) -> None:
    write_native(out, json.loads((source / "config.json").read_text()), merge(open_base(source)), Rounding(16))


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "native": store_native,
    "llama.cpp": lambda source, out: write_gguf(source, out / "model.gguf", "F16"),
    "onnx": lambda source, out: write_onnx(source, out, 32),
}


@pytest.fixture(scope="module", params=SHAPES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    source = tmp_path_factory.mktemp(request.param)
    return source, save_merged(source, **SHAPES[request.param])


@pytest.fixture(scope="module", params=WRITERS)
def pair(
    request: pytest.FixtureRequest, reference: tuple[Path, LlamaForCausalLM], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, LlamaForCausalLM]]:
    source, model = reference
    out = tmp_path_factory.mktemp("stage")
    WRITERS[request.param](source, out)
    engine = open_engine(out, request.param, threads=2)
    yield engine, model
    engine.close()


Pair = tuple[Engine, LlamaForCausalLM]


def assert_close(engine: Engine, found: Array, expected: Array) -> None:
    assert found.dtype == np.float32
    assert relative_error(found, expected) < TOLERANCE[engine.name]


def test_it_knows_its_sizes(pair: Pair) -> None:
    engine, model = pair
    assert engine.vocab_size == model.config.vocab_size
    assert engine.context_length == model.config.max_position_embeddings


def test_one_prefill_has_the_logits_of_every_position(pair: Pair) -> None:
    engine, model = pair
    ids = random_ids(engine.context_length, engine.vocab_size)
    session = engine.session()
    assert_close(engine, session.advance(ids, every=True), reference_logits(model, ids))
    assert session.length == len(ids)
    session.close()


def test_prefill_and_decode_have_the_logits_of_one_pass(pair: Pair) -> None:
    engine, model = pair
    ids = random_ids(60, engine.vocab_size, seed=1)
    session = engine.session(len(ids))
    rows = [session.advance(ids[:40]), *(session.advance([token]) for token in ids[40:])]
    assert_close(engine, np.concatenate(rows), reference_logits(model, ids)[39:])
    session.close()


def test_pieces_of_any_length_continue_each_other(pair: Pair) -> None:
    engine, model = pair
    ids = random_ids(50, engine.vocab_size, seed=2)
    session = engine.session(64)
    rows = [session.advance(ids[a:b], every=True) for a, b in ((0, 1), (1, 8), (8, 9), (9, 33), (33, 50))]
    assert_close(engine, np.concatenate(rows), reference_logits(model, ids))
    session.close()


def test_tokens_can_be_drawn_from_its_logits(pair: Pair) -> None:
    engine, _ = pair
    session = engine.session(4)
    logits = session.advance(random_ids(3, engine.vocab_size))
    for sampling in (Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01)):
        assert 0 <= Sampler(sampling).sample(logits[-1]) < engine.vocab_size
    session.close()


def test_sessions_in_several_threads_do_not_disturb_each_other(pair: Pair) -> None:
    engine, model = pair

    def decode(seed: int) -> tuple[Array, Array]:
        ids = random_ids(30, engine.vocab_size, seed)
        session = engine.session(len(ids))
        rows = [session.advance(ids[:10]), *(session.advance([token]) for token in ids[10:])]
        session.close()
        return np.concatenate(rows), reference_logits(model, ids)[9:]

    with ThreadPoolExecutor(4) as pool:
        for found, expected in pool.map(decode, range(12)):
            assert_close(engine, found, expected)


def test_a_used_session_leaves_nothing_to_the_next(pair: Pair) -> None:
    engine, _ = pair
    ids = random_ids(20, engine.vocab_size, seed=3)
    first, rows = engine.session(32), []
    rows.append(first.advance(ids))
    first.advance(random_ids(12, engine.vocab_size, seed=4))
    first.close()
    second = engine.session(32)
    rows.append(second.advance(ids))
    second.close()
    np.testing.assert_array_equal(rows[0], rows[1])


def test_a_truncated_session_goes_on_as_if_what_it_forgot_had_never_been(pair: Pair) -> None:
    engine, model = pair
    ids = random_ids(40, engine.vocab_size, seed=5)
    session = engine.session(64)
    session.advance([*ids[:30], *random_ids(20, engine.vocab_size, seed=6)])
    session.truncate(30)
    assert session.length == 30
    assert_close(engine, session.advance(ids[30:], every=True), reference_logits(model, ids)[30:])
    session.truncate(0)
    assert_close(engine, session.advance(ids, every=True), reference_logits(model, ids))
    for length in (-1, 41):
        with pytest.raises(ValueError, match="length is"):
            session.truncate(length)
    assert session.length == 40
    session.close()
    with pytest.raises(EngineError):
        session.truncate(0)


def test_a_full_session_refuses_more(pair: Pair) -> None:
    engine, _ = pair
    session = engine.session(8)
    session.advance(random_ids(7, engine.vocab_size))
    with pytest.raises(ContextError):
        session.advance([1, 2])
    assert session.length == 7
    session.close()
    with pytest.raises(UsageError):
        engine.session(engine.context_length + 1)


@pytest.mark.parametrize("wrong", [[], [-1], [1, 1 << 20]], ids=["none", "negative", "beyond the vocabulary"])
def test_ids_that_are_no_tokens_are_refused_and_change_nothing(pair: Pair, wrong: list[int]) -> None:
    engine, _ = pair
    ids = random_ids(12, engine.vocab_size, seed=7)
    session = engine.session(16)
    session.advance(ids[:9])
    with pytest.raises(ValueError, match="ids"):
        session.advance(wrong)
    assert session.length == 9
    found = session.advance(ids[9:])
    session.truncate(0)
    assert_close(engine, found, session.advance(ids))
    session.close()


def test_closing_twice_is_allowed_and_closed_things_refuse(pair: Pair, tmp_path: Path) -> None:
    engine, _ = pair
    session = engine.session(8)
    session.close()
    session.close()
    with pytest.raises(EngineError):
        session.advance([1])
