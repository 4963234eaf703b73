"""Kept keys and values: in memory within their bounds, on disk as something that may vanish or be damaged any time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpointed_state import EVERY, CheckpointedState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_model import save_base

from edgereason import load
from edgereason.bundle import Bundle
from edgereason.engines.native import NativeEngine
from edgereason.prefill.prefix_cache import PrefixCache
from edgereason.prefill.prefix_files import PrefixFiles

# The random models' logits lie close together: which rows are computed together must not matter.
pytestmark = pytest.mark.usefixtures("rows_as_if_alone")

QUESTION = "How many apples?"


@pytest.fixture
def bundle(shared_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that nobody has asked yet."""
    return Path(shutil.copytree(shared_bundle, tmp_path / "bundle", ignore=shutil.ignore_patterns("cache")))


def ask(bundle: Path) -> tuple[str, str, int]:
    """A new reasoner's texts, and how many of the guidance's prompt tokens it had from somewhere."""
    with load(bundle) as reasoner:
        result = reasoner.ask(QUESTION, max_new_tokens=8)
    return result.guidance, result.answer, result.timings.guidance.cached_tokens


def files(bundle: Path) -> list[Path]:
    return sorted((bundle / "cache").iterdir())


# ---- on disk ---------------------------------------------------------------------------------------------------------


def test_instructions_are_computed_once_for_all_runs(bundle):
    first, second = ask(bundle), ask(bundle)
    assert first[:2] == second[:2]
    assert (first[2], second[2] > 8) == (0, True)
    assert [file.name.partition("-")[0] for file in files(bundle)] == ["answer", "guidance"]


def test_a_cache_is_no_part_of_the_bundle(bundle):
    before = Bundle.open(bundle)
    ask(bundle)
    after = Bundle.open(bundle)
    after.verify()
    assert after == before


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return bytes([*data[:-9], data[-9] ^ 1, *data[-8:]])


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda data: b"", lambda data: b"something else", lambda data: data[:8]]
)
def test_a_damaged_file_is_ignored_and_written_again(bundle, damage):
    expected = ask(bundle)
    good = {file: file.read_bytes() for file in files(bundle)}
    for file, data in good.items():
        file.write_bytes(damage(data))
    assert ask(bundle) == expected
    assert {file: file.read_bytes() for file in files(bundle)} == good
    assert ask(bundle)[2] > 8


def test_a_whole_file_of_other_tokens_or_another_model_is_ignored(bundle, trio):
    expected = ask(bundle)
    answer, guidance = files(bundle)
    answer_data = answer.read_bytes()
    guidance.write_bytes(answer_data)
    assert ask(bundle) == expected
    with_other = NativeEngine(trio["base"]).session()
    with_other.advance([1, 2, 3])
    guidance.write_bytes(with_other.save())
    assert ask(bundle) == expected


def test_a_file_of_another_version_is_ignored_and_replaced(bundle, monkeypatch):
    expected = ask(bundle)
    before = files(bundle)
    monkeypatch.setattr("edgereason.prefill.prefix_files.__version__", "0.0.1")
    assert ask(bundle) == expected
    after = files(bundle)
    assert len(after) == 2
    assert not set(after) & set(before)


@pytest.mark.parametrize("what", ["isa", "build", "sums"])
def test_the_name_tells_all_that_a_state_depends_on(bundle, monkeypatch, what):
    first = PrefixFiles(Bundle.open(bundle)).path("answer", [1, 2, 3])
    assert PrefixFiles(Bundle.open(bundle)).path("answer", [1, 2, 3]) == first
    opened = Bundle.open(bundle)
    if what == "sums":
        name, record = opened.files.popitem()
        opened.files[name] = type(record)(record.bytes, "0" * 64)
    else:
        monkeypatch.setattr(f"edgereason.kernels.cpu.{what}", lambda: "other")
    assert PrefixFiles(opened).path("answer", [1, 2, 3]) != first
    assert PrefixFiles(opened).path("answer", [1, 2, 4]) != PrefixFiles(opened).path("answer", [1, 2, 3])


def test_deleting_the_cache_while_it_is_used_does_no_harm(bundle):
    with load(bundle) as reasoner:
        first = reasoner.ask(QUESTION, max_new_tokens=8)
        shutil.rmtree(bundle / "cache")
        second = reasoner.ask(QUESTION, max_new_tokens=8)
    assert first.answer == second.answer


def test_where_the_bundle_cannot_be_written_the_users_cache_is_used(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who can write anywhere
    expected = ask(bundle)
    assert not (bundle / "cache").exists()
    assert len(list((tmp_path / "home" / "edgereason" / "prefixes").glob("*/*.kv"))) == 2
    assert ask(bundle)[:2] == expected[:2]
    assert ask(bundle)[2] > 8


def test_where_nothing_can_be_written_nothing_is_kept(bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert ask(bundle) == ask(bundle)


ASK = """
import sys
from edgereason import load
for _ in range(6):
    with load(sys.argv[1]) as reasoner:
        result = reasoner.ask(sys.argv[2], max_new_tokens=8)
    print(repr((result.guidance, result.answer)))
"""


def test_processes_share_a_cache_directory(bundle):
    """Each writes, reads, and finds files missing and damaged, all at the same time."""
    environment = {
        **os.environ,
        "EDGEREASON_SPANS": "off",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    command = [sys.executable, "-c", ASK, str(bundle), QUESTION]
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while any(child.poll() is None for child in children):
        for file in (bundle / "cache").glob("*.kv"):
            try:
                file.write_bytes(b"cut") if file.stat().st_size % 2 else file.unlink()
            except FileNotFoundError:
                continue
    outputs = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    lines = {line for output in outputs for line in output.splitlines()}
    assert lines == {repr(ask(bundle)[:2])}
    assert all(file.suffix == ".kv" for file in files(bundle))


# ---- in memory -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(trio: dict[str, Path]) -> NativeEngine:
    """With adapters 0 and 1, in full precision: results do not depend on which tokens are computed together."""
    engine = NativeEngine(trio["base"])
    assert [engine.load_adapter(trio[stage]) for stage in ("guidance", "answer")] == [0, 1]
    return engine


@pytest.fixture(params=["any length", "checkpoints"])
def states(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """States that can be cut back to any length, and states that can only go back to some."""
    if request.param == "checkpoints":
        monkeypatch.setattr("edgereason.engines.native.KVCacheState", CheckpointedState)


prompts = st.lists(
    st.tuples(st.sampled_from([None, 0, 1]), st.lists(st.integers(0, 2), min_size=1, max_size=12)), max_size=12
)


@given(asked=prompts, most=st.sampled_from([0, 40_000, 1 << 20]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_gives_the_same_logits_whatever_was_asked_before(engine, states, asked, most):
    prefixes = PrefixCache(engine, most)
    for adapter, prompt in asked:
        session = prefixes.session(prompt, adapter, 40)
        assert session.length < len(prompt)
        found = session.advance(prompt[session.length :])
        expected = engine.session(40, adapter).advance(prompt)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        prefixes.keep(session)
        session.close()
        assert sum(kept.nbytes for kept in prefixes._kept) <= most


def test_the_longest_beginning_of_the_same_adapter_is_found(engine):
    prefixes = PrefixCache(engine)
    for adapter, ids in ((0, [1, 2, 3, 4]), (1, [1, 2, 3, 4, 5]), (0, [1, 2])):
        session = engine.session(50, adapter)
        session.advance(ids)
        prefixes.keep(session)
    known = {adapter: prefixes.session([1, 2, 3, 4, 5, 6], adapter, 60).length for adapter in (None, 0, 1)}
    assert known == {None: 0, 0: 4, 1: 5}
    assert prefixes.session([1, 2, 3], 0, 60).length == 2  # the last token is computed in any case
    assert len(prefixes._kept) == 2  # [1, 2] is the beginning of another one


def test_a_sequence_gives_what_its_state_can_be_cut_back_to(engine, monkeypatch):
    monkeypatch.setattr("edgereason.engines.native.KVCacheState", CheckpointedState)
    prefixes, ids = PrefixCache(engine), list(range(21))
    for length in (EVERY, 2 * EVERY + 1, 2 * EVERY + 5):
        session = engine.session(50, 0)
        session.advance(ids[:length])
        prefixes.keep(session)
    assert [kept.length for kept in prefixes._kept] == [2 * EVERY + 1, 2 * EVERY + 5]  # neither gives the other
    known = {length: prefixes.session([*ids[:length], 99], 0, 50).length for length in (9, 16, 17, 19, 21)}
    assert known == {9: 8, 16: 16, 17: 17, 19: 17, 21: 21}


def test_those_not_used_for_long_make_room(engine):
    prefixes = PrefixCache(engine, 4 * session_bytes(engine))
    for first in range(6):
        session = engine.session(50, 0)
        session.advance([first, 2, 3])
        prefixes.keep(session)
        prefixes.session([0, 2, 3, 4], 0, 50)  # the first one is used all the time
    known = [prefixes.session([first, 2, 3, 4], 0, 50).length for first in range(6)]
    assert known == [3, 0, 0, 3, 3, 3]


def session_bytes(engine: NativeEngine) -> int:
    session = engine.session(50)
    session.advance([1])
    return session.nbytes


def test_keys_that_depend_on_the_capacity_are_not_used_for_another(tmp_path):
    save_base(tmp_path, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
    engine = NativeEngine(tmp_path)
    prefixes = PrefixCache(engine)
    session = prefixes.session([1, 2, 3], None, 700)
    session.advance([1, 2, 3])
    prefixes.keep(session)
    assert prefixes.session([1, 2, 3, 4], None, 700).length == 3
    assert prefixes.session([1, 2, 3, 4], None, 500).length == 0


def test_sequences_of_another_engine_are_another_models(engine, trio):
    other = NativeEngine(trio["base"]).session(50)
    other.advance([1, 2, 3])
    assert PrefixCache(engine).session([1, 2, 3, 4], None, 50, other).length == 0
