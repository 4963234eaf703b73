"""The probe: an engine that works, one that is not there, one that computes wrong, and one that ends its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgereason.engines import ENGINES
from edgereason.engines.probe import MICRO_MODELS, PROMPT, STEPS, Verdict, probe

ASK = "import json, sys; from edgereason.engines.probe import probe; print(json.dumps(vars(probe(sys.argv[1]))))"
LOAD = (
    "import sys; from pathlib import Path; from edgereason.engines.llama_cpp import LlamaCppEngine;"
    "LlamaCppEngine(Path(sys.argv[1]))"
)


def run(script: str, argument: str, cache: Path, *, modules: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process with a cache of its own and, before all others, the modules in `modules`."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache)}
    environment.pop("EDGEREASON_PROBE", None)
    if modules is not None:
        environment["PYTHONPATH"] = str(modules)
    return subprocess.run(
        [sys.executable, "-c", script, argument], env=environment, capture_output=True, text=True, check=False
    )


def ask(engine: str, cache: Path, modules: Path | None = None) -> Verdict:
    return Verdict(**json.loads(run(ASK, engine, cache, modules=modules).stdout))


@pytest.fixture
def dying(tmp_path: Path) -> Path:
    """A llama_cpp whose first use is an instruction that the processor does not have."""
    package = tmp_path / "modules" / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    (package / "lib" / "libllama.so").write_bytes(b"one build")
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    return package.parent


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_works_here_and_the_verdict_is_remembered(engine: str, tmp_path: Path) -> None:
    verdict = ask(engine, tmp_path)
    assert (verdict.works, verdict.problem, verdict.cure) == (True, "", "")
    assert verdict.version
    (memory,) = (tmp_path / "edgereason").iterdir()
    memory.write_text(json.dumps({**vars(verdict), "version": "remembered"}))
    assert ask(engine, tmp_path).version == "remembered"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_recorded_logits_are_there(engine: str) -> None:
    assert load_file(MICRO_MODELS / "expected.safetensors")[engine].shape == (1 + len(STEPS), 288)
    assert max(*PROMPT, *STEPS) < 288


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to die of")
def test_an_engine_that_ends_its_process_is_named_with_the_cure(dying: Path, tmp_path: Path) -> None:
    verdict = ask("llama.cpp", tmp_path / "cache", dying)
    assert not verdict.works
    assert "dies in its first decode (SIGILL)" in verdict.problem
    assert "--no-binary llama-cpp-python" in verdict.cure


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to die of")
def test_the_engine_itself_gives_the_sentence_and_lives(dying: Path, tmp_path: Path) -> None:
    child = run(LOAD, str(MICRO_MODELS), tmp_path / "cache", modules=dying)
    assert child.returncode == 1
    assert "EngineError: llama-cpp-python" in child.stderr
    assert "Rebuild it: " in child.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to die of")
def test_a_rebuilt_library_is_tried_again(dying: Path, tmp_path: Path) -> None:
    ask("llama.cpp", tmp_path / "cache", dying)
    (dying / "llama_cpp/lib/libllama.so").write_bytes(b"another build")
    ask("llama.cpp", tmp_path / "cache", dying)
    assert len(list((tmp_path / "cache/edgereason").iterdir())) == 2


def test_wrong_logits_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgereason.engines.probe as module

    assert module._check("native")["works"]
    monkeypatch.setattr(module, "STEPS", (STEPS[1], STEPS[0]))
    answer = module._check("native")
    assert not answer["works"]
    assert "computes wrong logits" in str(answer["problem"])


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert ask("native", tmp_path / "file").works


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import edgereason.engines.probe as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    probe.cache_clear()
    verdict = probe("onnx")
    probe.cache_clear()
    assert verdict == Verdict(
        "onnx", "", False, "onnxruntime is not installed.", 'Install it: pip install "edgereason[onnx]"'
    )
