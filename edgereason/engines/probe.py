"""Does an engine really decode on this machine? Tried once in a child process, and remembered.

A library that was built for another processor does not fail with an error: it ends the process. llama-cpp-python
built by GCC 12 on a CPU with AMX does so in its first decode. So a child process decodes a few tokens with a micro
model before the engine is used here; what comes of it is kept in the user's cache directory until the library, the
processor or the engine's version changes.

    python -m edgereason.engines.probe ENGINE      what the child runs; prints a line of JSON
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from edgereason.errors import EdgeReasonError, EngineError
from edgereason.files import user_cache
from edgereason.hardware import cpu_model, has_amx
from edgereason.version import __version__

MICRO_MODELS = Path(__file__).parent / "probes"
"""One micro model for each engine, and the logits that they give: `probes/make.py` made them."""

PROMPT = (72, 101, 108, 108, 111, 44, 32, 119, 111, 114, 108, 100)
"""The ids that are decoded: a prompt in one piece, then two single tokens."""
STEPS = (33, 10)

_TIMEOUT_S = 120
_TOLERANCE = 0.05
"""Largest difference of a logit from the recorded one, as a share of the logits' range: processors round differently,
but wrong arithmetic is off by all of it."""


@dataclass(frozen=True)
class _Library:
    distribution: str
    module: str
    libraries: str  # where below the module its shared libraries lie
    extra: str
    model: str  # the micro model, below MICRO_MODELS


_LIBRARIES = {
    "native": _Library("edgereason", "edgereason.kernels", "", "", "native"),
    "llama.cpp": _Library("llama-cpp-python", "llama_cpp", "lib", "gguf", "model.gguf"),
    "onnx": _Library("onnxruntime", "onnxruntime", "capi", "onnx", "model.onnx"),
}

_NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_REINSTALL = "pip install --force-reinstall --no-deps --no-cache-dir --no-binary {0} {0}"


@dataclass(frozen=True)
class Verdict:
    """Whether an engine works here.

    Attributes:
        engine: `native`, `llama.cpp` or `onnx`.
        version: Of the library that it is made of; empty where that is not installed.
        works: It decoded the micro model as it should.
        problem: Where it does not work, why, in one sentence.
        cure: What to do about it.
    """

    engine: str
    version: str
    works: bool
    problem: str = ""
    cure: str = ""


def require(engine: str) -> None:
    """Make sure that an engine can be used here, unless `EDGEREASON_PROBE` is `off`.

    Raises:
        EngineError: it is not installed, or its library does not work on this machine.
    """
    if os.environ.get("EDGEREASON_PROBE", "").lower() in ("off", "0"):
        return
    verdict = probe(engine)
    if not verdict.works:
        raise EngineError(verdict.problem, verdict.cure)


@cache
def probe(engine: str) -> Verdict:
    """Find out whether an engine works on this machine: from the cache, or by trying it in a child process."""
    library = _LIBRARIES[engine]
    directory = _library_directory(library)
    if directory is None:
        cure = f'Install it: pip install "edgereason[{library.extra}]"' if library.extra else "Reinstall edgereason."
        return Verdict(engine, "", False, f"{library.distribution} is not installed.", cure)
    try:
        release = version(library.distribution)
    except PackageNotFoundError:
        release = "of unknown version"
    memory = _cache_file(engine, release, directory)
    return _remembered(memory) or _try(engine, library, release, memory)


def _try(engine: str, library: _Library, release: str, memory: Path) -> Verdict:
    """Run the child; remember what it found, unless it only ran out of time."""
    environment = {
        **os.environ,
        "EDGEREASON_PROBE": "off",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "PYTHONSAFEPATH": "1",
    }
    # The working directory is ours: a module that lies where the user happens to be must not be imported.
    command = [sys.executable, "-m", "edgereason.engines.probe", engine]
    try:
        child = subprocess.run(
            command, env=environment, cwd=MICRO_MODELS, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        problem = f"{library.distribution} {release} did not decode 14 tokens of a micro model in {_TIMEOUT_S} seconds."
        return Verdict(engine, release, False, problem, "Try again when the machine is less busy.")
    verdict = _verdict(engine, library, release, child)
    _remember(memory, verdict)
    return verdict


def _verdict(engine: str, library: _Library, release: str, child: subprocess.CompletedProcess[str]) -> Verdict:
    with contextlib.suppress(ValueError):
        answer = json.loads(child.stdout)
        return Verdict(engine, release, answer["works"], answer["problem"], answer["cure"])
    how = _how_it_ended(child.returncode)
    if has_amx() and engine == "llama.cpp":
        problem = f"{library.distribution} {release} dies in its first decode ({how}): its AMX code was built wrong."
        flags = f'CFLAGS="{_NO_AMX}" CXXFLAGS="{_NO_AMX}" '
    else:
        problem = f"{library.distribution} {release} dies in its first decode ({how}) on this processor."
        flags = ""
    return Verdict(engine, release, False, problem, f"Rebuild it: {flags}{_REINSTALL.format(library.distribution)}")


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code:#x}" if code > 255 else f"exit code {code}"


def _library_directory(library: _Library) -> Path | None:
    spec = find_spec(library.module)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / library.libraries


def _cache_file(engine: str, release: str, directory: Path) -> Path:
    """Where the verdict on exactly these files on this processor is kept."""
    suffixes = (*EXTENSION_SUFFIXES, ".so", ".dll", ".dylib")
    files = sorted(file for file in directory.glob("*") if file.name.endswith(suffixes))
    stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = repr((engine, release, __version__, cpu_model(), sys.version, stamps))
    return user_cache() / f"probe-{engine}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _remembered(file: Path) -> Verdict | None:
    try:
        return Verdict(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _remember(file: Path, verdict: Verdict) -> None:
    partial = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a read-only home costs a second each time, nothing more
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(verdict)), encoding="utf-8")
        partial.replace(file)


def decode(engine: str) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Decode the micro model in this process.

    Returns:
        Logits `[1 + len(STEPS), vocab]`: after the prompt, and after each single token.
    """
    from edgereason.engines import open_engine

    model = open_engine(MICRO_MODELS / _LIBRARIES[engine].model, engine, threads=2)
    session = model.session(len(PROMPT) + len(STEPS))
    rows = [session.advance(PROMPT), *(session.advance([token]) for token in STEPS)]
    session.close()
    model.close()
    return np.concatenate(rows)


def _check(engine: str) -> dict[str, object]:
    """What the child reports."""
    try:
        found = decode(engine)
    except EdgeReasonError as error:
        return {"works": False, "problem": error.what, "cure": error.cure}
    expected = load_file(MICRO_MODELS / "expected.safetensors")[engine]
    off = float(np.abs(found - expected).max() / np.ptp(expected))
    if not off < _TOLERANCE:  # also where it is not a number
        problem = f"The engine {engine} computes wrong logits on this machine: off by {off:.0%} of their range."
        cure = f"Rebuild it: {_REINSTALL.format(_LIBRARIES[engine].distribution)}"
        return {"works": False, "problem": problem, "cure": cure}
    return {"works": True, "problem": "", "cure": ""}


if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # Windows has no core files
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps(_check(sys.argv[1])))
