"""Sessions of the native engine: batches, forks, cuts and saved states give the logits of one plain sequence."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from checkpointed_state import EVERY, CheckpointedState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_model import save_adapter, save_base
from resident import resident_bytes
from transformers import LlamaForCausalLM

from edgereason.engines.forward_passes import SequenceStep
from edgereason.engines.native import NativeEngine
from edgereason.errors import BundleError, ContextError, EdgeReasonError, EngineError, UsageError
from edgereason.export.formats.native_writer import write_native
from edgereason.export.quantization.round_to_nearest import Rounding
from edgereason.text.prompts import GUIDANCE

# What a session computes must not depend on what it shares a pass with: compared bit for bit where kernels allow it.
pytestmark = pytest.mark.usefixtures("rows_as_if_alone")

VOCAB = 280
IDS = np.random.default_rng(1).integers(0, VOCAB, 200).tolist()


def write_int4(base: Path, out: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(base).float()
    tensors = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    write_native(out, model.config.to_dict(), tensors, Rounding(4))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base in full precision and in int4, and two adapters."""
    root = tmp_path_factory.mktemp("rows")
    save_base(root / "float")
    write_int4(root / "float", root / "int4")
    for seed, name in enumerate(["first", "second"]):
        save_adapter(root / "float", root / name, GUIDANCE, seed)
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module", params=["float", "int4"])
def engine(request: pytest.FixtureRequest, paths: dict[str, Path]) -> NativeEngine:
    """With adapters 0 and 1."""
    engine = NativeEngine(paths[request.param])
    assert [engine.load_adapter(paths[name]) for name in ("first", "second")] == [0, 1]
    return engine


@pytest.fixture(params=[256, 7])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of many rows, and passes that cut everything to pieces."""
    monkeypatch.setattr("edgereason.engines.forward_passes.MAX_BATCHED_TOKENS", request.param)


@pytest.fixture(params=["any length", "checkpoints"])
def states(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """States that can be cut back to any length, and states that can only go back to some."""
    if request.param == "checkpoints":
        monkeypatch.setattr("edgereason.engines.native.KVCacheState", CheckpointedState)


def alone(engine: NativeEngine, ids: list[int], adapter: int | None = None) -> np.ndarray:
    """The witness: logits after each of `ids`, of one sequence in a session of its own."""
    return engine.session(adapter=adapter).advance(ids, every=True)


def test_sequences_side_by_side_are_computed_as_if_alone(engine, chunk):
    adapters = [1, None, 0, 1, None]
    sessions = [engine.session(adapter=adapter) for adapter in adapters]
    lengths = np.zeros(5, int)
    # A long prompt beside decoding steps, and steps of all.
    for counts in ([20, 1, 3, 0, 0], [1, 90, 1, 5, 0], [1, 1, 1, 1, 30], [2, 1, 1, 1, 1]):
        steps = [
            SequenceStep(sessions[i], IDS[lengths[i] : lengths[i] + count], None)
            for i, count in enumerate(counts)
            if count
        ]
        found = iter(engine.advance(steps))
        for i, count in enumerate(counts):
            lengths[i] += count
            if count:
                expected = alone(engine, IDS[: lengths[i]], adapters[i])[-count:]
                np.testing.assert_array_equal(next(found), expected)
    assert [session.length for session in sessions] == lengths.tolist()


def test_only_the_logits_that_are_asked_for_come_back(engine, chunk):
    sessions = [engine.session() for _ in range(4)]
    found = engine.advance([(sessions[i], IDS[:20], outputs) for i, outputs in enumerate([0, 1, 9, None])])
    expected = alone(engine, IDS[:20])
    for logits, count in zip(found, [0, 1, 9, 20], strict=True):
        np.testing.assert_array_equal(logits, expected[20 - count :])


tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40)
verbs = st.sampled_from(["advance", "advance", "fork", "truncate", "restore", "advance_to", "adapter", "close"])
actions = st.lists(st.tuples(verbs, st.integers(0, 5), st.integers(0, 90), tokens), max_size=14)


@given(actions=actions)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_gives_what_computing_from_the_start_gives(engine, states, actions):
    """The model of a session is its history: each token with the adapter that computed it."""
    sessions, histories = [engine.session()], [[]]
    for verb, index, number, ids in actions:
        i = index % len(sessions)
        session, history = sessions[i], histories[i]
        if verb == "advance" and len(history) + len(ids) <= session.capacity:
            history += [(token, session.adapter) for token in ids]
            np.testing.assert_array_equal(session.advance(ids), replay(engine, history))
        elif verb == "advance_to":
            target = [token for token, _ in history][:number] + ids
            target = target[: session.capacity]
            kept = min(session.common_prefix(target), len(target) - 1)
            history[kept:] = [(token, session.adapter) for token in target[kept:]]
            np.testing.assert_array_equal(session.advance_to(target), replay(engine, history))
        elif verb == "fork":
            sessions.append(session.fork())
            histories.append(list(history))
        elif verb == "truncate":
            length = min(number, len(history))
            session.truncate(length)
            del history[length:]
        elif verb == "restore":
            sessions[i] = engine.restore(session.save())
            session.close()
        elif verb == "adapter":
            session.adapter = (None, 0, 1)[number % 3]
        elif verb == "close" and len(sessions) > 1:
            session.close()
            del sessions[i], histories[i]
        assert [session.ids for session in sessions] == [[token for token, _ in history] for history in histories]
    # What is left goes on in one batch.
    steps = [(session, [number], 1) for number, session in enumerate(sessions) if session.length < session.capacity]
    for (session, ids, _), logits in zip(steps, engine.advance(steps), strict=True):
        history = histories[sessions.index(session)]
        np.testing.assert_array_equal(logits, replay(engine, [*history, (ids[0], session.adapter)]))


def replay(engine: NativeEngine, history: list[tuple[int, int | None]]) -> np.ndarray:
    """Logits after a history, computed in a new session, one run of the same adapter after the other."""
    session, start = engine.session(), 0
    for end in range(1, len(history) + 1):
        if end == len(history) or history[end][1] != history[start][1]:
            session.adapter = history[start][1]
            logits = session.advance([token for token, _ in history[start:end]])
            start = end
    return logits


def test_advance_to_computes_only_what_is_new(engine):
    session = engine.session(adapter=0)
    session.advance(IDS[:60])
    session.adapter = 1  # what it computes from now on can be told from what it had
    found = session.advance_to([*IDS[:40], 7, 8])
    expected = replay(engine, [*((token, 0) for token in IDS[:40]), (7, 1), (8, 1)])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ContextError):
        session.advance_to([1] * 300)
    assert session.ids == [*IDS[:40], 7, 8]
    with pytest.raises(ValueError, match="ids is empty"):
        session.advance_to([])


def test_what_cannot_be_reached_is_computed_again(engine, monkeypatch):
    monkeypatch.setattr("edgereason.engines.native.KVCacheState", CheckpointedState)
    session = engine.session(adapter=0)
    session.advance(IDS[:34])
    session.adapter = 1
    session.advance(IDS[34:42])
    assert [session.longest_reachable(length) for length in (0, 7, 8, 41, 42)] == [0, 0, 8, 40, 42]
    cut = session.fork(length=37)  # from 32 on: two tokens of adapter 0, three of adapter 1
    assert (cut.length, cut.adapter, cut.adapters) == (37, 1, [0] * 34 + [1] * 3)
    expected = replay(engine, [(token, 0 if at < 34 else 1) for at, token in enumerate(IDS[:37])] + [(7, 1)])
    np.testing.assert_array_equal(cut.advance([7]), expected)
    assert session.rewind(29) == 29 // EVERY * EVERY == session.length
    for length in (-1, 25):
        with pytest.raises(ValueError, match="length is"):
            session.truncate(length)


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 5e-4), ("int8", 1e-2)])
def test_smaller_caches_are_close_to_float32(paths, kind, tolerance):
    engine = NativeEngine(paths["float"])
    exact, small = engine.session(cache="f32"), engine.session(cache=kind)
    expected, found = exact.advance(IDS, every=True), small.advance(IDS, every=True)
    assert np.sqrt(((found - expected) ** 2).mean()) < tolerance * np.ptp(expected)
    assert small.nbytes < exact.nbytes * (0.51 if kind == "f16" else 0.32)
    restored = engine.restore(small.save())
    np.testing.assert_array_equal(restored.advance([5]), small.advance([5]))


def test_a_failing_step_leaves_all_sessions_as_they_were(engine, chunk):
    sessions = [engine.session() for _ in range(3)]
    engine.advance([(session, IDS[:5], 1) for session in sessions])
    for bad in ([0] * 30 + [engine.vocab_size], [-1]):
        with pytest.raises(ValueError, match="ids"):
            engine.advance([(sessions[0], IDS[:9], 1), (sessions[1], bad, 1), (sessions[2], IDS[:50], 1)])
    found = engine.advance([(session, IDS[5:9], 1) for session in sessions])
    for session, logits in zip(sessions, found, strict=True):
        assert session.ids == IDS[:9]
        np.testing.assert_array_equal(logits, alone(engine, IDS[:9])[-1:])


def test_steps_that_cannot_be_are_refused(engine):
    session, full, closed = engine.session(), engine.session(3), engine.session()
    closed.close()
    refused = [
        ([(session, [1], 1), (session, [2], 1)], ValueError, "a session is in two steps"),
        ([(session, [1], 1), (full, [1] * 4, 1)], ContextError, "4 tokens do not fit into a session of 3"),
        ([(session, [1], 1), (closed, [1], 1)], EngineError, "session is closed"),
        ([(session, [1], 2)], ValueError, "outputs is 2, for 1 ids"),
        ([(session, [], 1)], ValueError, "ids is empty"),
    ]
    for steps, error, message in refused:
        with pytest.raises(error, match=message):
            engine.advance(steps)
    assert engine.advance([]) == []
    with pytest.raises(UsageError, match="no adapter 7"):
        engine.session(adapter=7)
    with pytest.raises(UsageError, match="no cache type 'q4'"):
        engine.session(cache="q4")


def test_threads_advance_batches_while_an_adapter_is_loaded(engine, paths):
    expected = {adapter: alone(engine, IDS[:30], adapter) for adapter in (None, 0, 1)}
    wrong: list[object] = []

    def run() -> None:
        for _ in range(4):
            sessions = {adapter: engine.session(adapter=adapter) for adapter in expected}
            for start in range(0, 30, 10):
                batch = [(session, IDS[start : start + 10], None) for session in sessions.values()]
                for adapter, logits in zip(sessions, engine.advance(batch), strict=True):
                    if not np.array_equal(logits, expected[adapter][start : start + 10]):
                        wrong.append(adapter)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        engine.unload_adapter(engine.load_adapter(paths["first"]))
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thousand_sessions_leave_no_memory_behind(engine):
    def use() -> None:
        session = engine.session()
        session.advance(IDS[:100])
        fork = session.fork()
        fork.advance([3])
        restored = engine.restore(session.save())
        for each in (session, fork, restored):
            each.close()

    for _ in range(50):
        use()
    before = resident_bytes()
    size = engine.restore(engine_state(engine)).nbytes
    for _ in range(1000):
        use()
    assert resident_bytes() - before < 20 * size


def engine_state(engine: NativeEngine) -> bytes:
    session = engine.session()
    session.advance(IDS[:100])
    return session.save()


# ---- saved states ------------------------------------------------------------------------------------------------


def test_a_state_that_was_cut_or_changed_is_refused(engine):
    data = engine_state(engine)
    generator = np.random.default_rng(0)
    for length in [0, 1, 7, 8, 39, 40, 111, 127, 128, 500, len(data) - 1, *generator.integers(0, len(data), 30)]:
        with pytest.raises(BundleError, match="session"):
            engine.restore(data[:length])
    for position in [0, 7, 8, 40, 72, 104, 108, 120, 124, 130, *generator.integers(0, len(data), 30)]:
        changed = bytearray(data)
        changed[position] ^= 1 << int(generator.integers(8))
        with pytest.raises(BundleError, match="session"):
            engine.restore(bytes(changed))
    with pytest.raises(BundleError, match="session"):
        engine.restore(data + b"\0")


@given(data=st.binary(max_size=300))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(engine, data):
    for bytes_ in (data, engine_state(engine)[:8] + data):
        with pytest.raises(BundleError, match="session"):
            engine.restore(bytes_)


def test_a_state_of_another_model_or_adapter_is_refused(paths, tmp_path):
    engine = NativeEngine(paths["float"])
    data = engine_state(engine)
    save_base(tmp_path / "other", seed=3)
    for other in (tmp_path / "other", paths["int4"]):
        with pytest.raises(BundleError, match="computed by another model"):
            NativeEngine(other).restore(data)
    adapter = engine.load_adapter(paths["first"])
    session = engine.session(adapter=adapter)
    session.advance(IDS[:10])
    other = NativeEngine(paths["float"])
    other.load_adapter(paths["second"])
    with pytest.raises(BundleError, match="needs an adapter that is not loaded"):
        other.restore(session.save())
    assert other.load_adapter(paths["first"]) == 1
    restored = other.restore(session.save())
    assert (restored.adapter, restored.ids) == (1, IDS[:10])
    np.testing.assert_array_equal(restored.advance([4]), session.advance([4]))
    with pytest.raises(ContextError, match="11 tokens do not fit into a session of 5"):
        other.restore(session.save(), capacity=5)


def test_a_session_whose_rope_frequencies_depend_on_the_capacity_keeps_it(tmp_path):
    save_base(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
    engine = NativeEngine(tmp_path)
    session = engine.session(700)
    session.advance(IDS)
    with pytest.raises(BundleError, match="RoPE frequencies of 700 tokens, 500 need others"):
        engine.restore(session.save(), 500)
    np.testing.assert_array_equal(engine.restore(session.save()).advance([4]), session.advance([4]))
    short = engine.session(220)  # below the length of pretraining all frequencies are the same
    short.advance(IDS)
    assert engine.restore(short.save(), 250).capacity == 250


def test_closed_sessions_refuse_everything(engine):
    session = engine.session()
    session.advance([1])
    session.close()
    session.close()
    assert (session.length, session.nbytes) == (0, 0)
    for use in (session.fork, session.save, lambda: session.truncate(0), lambda: session.advance_to([1])):
        with pytest.raises(EdgeReasonError, match="session is closed"):
            use()
