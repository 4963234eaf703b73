"""llama.cpp: how far its quantized types are off, and what becomes of files that are not whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_model import random_ids, reference_logits, save_merged

from edgereason.checkpoints.gguf_header import check_header
from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.engines.probe import MICRO_MODELS
from edgereason.errors import BundleError, EngineError
from edgereason.export.gguf import write_gguf

MICRO = (MICRO_MODELS / "model.gguf").read_bytes()

# Loads every file named on the command line and decodes with those that load; prints what became of each.
DECODE_ALL = """
import sys
from pathlib import Path
from edgereason.engines.llama_cpp import LlamaCppEngine
from edgereason.errors import EdgeReasonError
for name in sys.argv[1:]:
    try:
        engine = LlamaCppEngine(Path(name), 1)
        session = engine.session(min(8, engine.context_length))
        session.advance([1, 2, 3])
        session.close()
        engine.close()
        print("decoded")
    except EdgeReasonError as error:
        print("refused:", error.what)
"""


@pytest.mark.parametrize(("gguf_type", "least"), [("Q8_0", 0.999), ("Q4_K_M", 0.95), ("Q4_0", 0.93)])
def test_quantized_types_stay_close_to_full_precision(tmp_path: Path, gguf_type: str, least: float) -> None:
    model = save_merged(tmp_path, hidden_size=256, intermediate_size=512, initializer_range=0.02)
    write_gguf(tmp_path, tmp_path / "model.gguf", gguf_type)
    engine = LlamaCppEngine(tmp_path, 2)
    ids = random_ids(64, engine.vocab_size)
    found = engine.session().advance(ids, every=True)
    assert np.corrcoef(found.ravel(), reference_logits(model, ids).ravel())[0, 1] > least


def test_a_prompt_longer_than_a_batch_is_one_sequence(tmp_path: Path) -> None:
    model = save_merged(tmp_path, max_position_embeddings=1200)
    write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    engine = LlamaCppEngine(tmp_path / "model.gguf", 2)
    ids = random_ids(1100, engine.vocab_size)
    found, expected = engine.session().advance(ids, every=True), reference_logits(model, ids)
    assert np.abs(found - expected).max() < 5e-3 * np.ptp(expected)


# A session's context serves the next one. llama.cpp ends the process where it is given more tokens than a batch holds.
ADVANCE_ALL = """
import sys
from pathlib import Path
from edgereason.engines.llama_cpp import LlamaCppEngine
engine = LlamaCppEngine(Path(sys.argv[1]), 1)
for length in (20, 200, 30, 255):
    session = engine.session(length)
    session.advance([1] * length)
    session.close()
"""


def test_a_context_serves_longer_sequences_after_shorter_ones(tmp_path: Path) -> None:
    save_merged(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", "F16")
    child = subprocess.run([sys.executable, "-c", ADVANCE_ALL, tmp_path], capture_output=True, text=True)
    assert (child.returncode, child.stderr) == (0, "")


def test_closing_the_engine_waits_for_its_sessions() -> None:
    engine = LlamaCppEngine(MICRO_MODELS / "model.gguf", 1)
    session = engine.session(8)
    engine.close()
    engine.close()
    assert session.advance([1]).shape == (1, engine.vocab_size)
    session.close()
    with pytest.raises(EngineError):
        engine.session(8)


def test_the_standard_streams_stay_silent() -> None:
    path = MICRO_MODELS / "model.gguf"
    child = subprocess.run([sys.executable, "-c", DECODE_ALL, path], capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("decoded\n", "")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.gguf does not exist"):
        LlamaCppEngine(tmp_path)


@pytest.mark.parametrize("length", [0, 3, 23, 100, 3000, len(MICRO) - 1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(MICRO[:length])
    with pytest.raises(BundleError, match=r"model\.gguf"):
        LlamaCppEngine(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_header_breaks_the_check(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    damaged = bytearray(MICRO)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 5800))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        check_header(path)
    except BundleError as error:
        assert str(path) in error.what  # noqa: PT017  (both outcomes are right)


def test_damaged_files_never_end_the_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(150):
        damaged = np.frombuffer(MICRO, dtype=np.uint8).copy()
        places = rng.integers(0, 5800, 3)
        damaged[places] = rng.choice([0, 1, 127, 255, rng.integers(256)], 3)
        paths.append(tmp_path / f"{index}.gguf")
        paths[-1].write_bytes(damaged.tobytes())
    child = subprocess.run([sys.executable, "-c", DECODE_ALL, *paths], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-2000:]
    outcomes = child.stdout.splitlines()
    assert len(outcomes) == len(paths)
    assert all(outcome == "decoded" or outcome.startswith("refused: ") for outcome in outcomes)
