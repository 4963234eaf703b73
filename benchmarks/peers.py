"""Speed, memory and load time of our engine, compared with other engines on PyPI.

    python benchmarks/peers.py [--shape qwen2.5-0.5b] [--json FILE] [--plot FILE.png] [--rounds 5] [--repeats 3]
                               [--threads 2] [--engines native llama.cpp ...] [--python ENGINE=PATH] [--rebuild]

A checkpoint with random weights is written once and converted once for each engine, under build/bench. Then the engines
run in turn, round after round, each in a process of its own and on prompts that it has not seen; files are read
beforehand, so that loading is not a measurement of the disk. Reported are medians over the rounds. Speeds follow from
the times at which tokens come: prefill from the prompt to the first, decode from the first to the last. Load time is
from opening the model, the engine's library being imported, to the first token of a prompt of one. `EDGEREASON_ISA`
passes through to our engine. An engine that is not installed is named and left out. `--python native@old=PATH` measures
a second build of an engine, which lives in another environment, on the same files: `native@old` is one more row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import children
import machine
import report
from checkpoint import SHAPES, Shape, write_checkpoint
from children import ChildError, NotInstalledError

from edgereason.errors import EdgeReasonError, UsageError

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "native": "native",
    "llama.cpp": "llamacpp",
    "onnxruntime-genai": "onnxgenai",
    "openvino-genai": "openvinogenai",
}
"""Name of an engine -> its file in benchmarks/engines."""

_INSTALL = {
    "native": "pip install .",
    "llama.cpp": "pip install llama-cpp-python",
    "onnxruntime-genai": "pip install onnxruntime-genai",
    "openvino-genai": "make bench-peers",
}
_CHILD = ROOT / "benchmarks" / "engines" / "child.py"


@dataclass(frozen=True)
class Settings:
    """What is measured, and where things lie."""

    shape: Shape
    build: Path
    """The checkpoint and its conversions for this shape."""
    threads: int
    prompt_tokens: int
    new_tokens: int
    pythons: dict[str, Path]
    """Interpreters for engines, or second builds of them (`native@old`), that live in another environment."""
    repeats: int = 0
    """How often a run is repeated while other programs disturb it."""


def compare(settings: Settings, engines: list[str], rounds: int, rebuild: bool = False) -> dict[str, Any]:
    """Convert, measure in turn, and summarize; see `report.summarize` for what comes back.

    Raises:
        EdgeReasonError: the machine's limits cannot be measured.
    """
    if write_checkpoint(settings.shape, settings.build / "checkpoint") or rebuild:
        for engine in engines:
            shutil.rmtree(settings.build / engine, ignore_errors=True)
    skipped: dict[str, str] = {}
    conversions: dict[str, dict[str, Any]] = {}
    for engine in engines:
        try:
            conversions[engine] = convert(settings, _kind(engine))
        except ChildError as failure:
            skipped[engine] = str(failure)
    measured: list[dict[str, dict[str, Any]]] = []
    limits: list[machine.Limits] = []
    for number in range(rounds):
        limits.append(machine.measure(settings.threads, settings.build.parent))
        measured.append({})
        running = [engine for engine in engines if engine not in skipped]
        first = number % max(1, len(running))  # another one begins each time: none always runs on the warmest chip
        for engine in running[first:] + running[:first]:
            report.say(f"round {number + 1} of {rounds}: {engine}")
            try:
                measured[-1][engine] = measure(settings, engine, seed=number)
            except ChildError as failure:
                skipped[engine] = str(failure)
    report.say("")
    complete = {engine: conversions[engine]["bytes_per_token"] for engine in engines if engine not in skipped}
    products = settings.shape.multiplications_per_token()
    return {**report.summarize(measured, limits, complete, products), "skipped": skipped}


def convert(settings: Settings, engine: str) -> dict[str, Any]:
    """Make an engine's files from the checkpoint, unless they are there: `{"bytes_per_token": ...}`."""
    directory = settings.build / engine
    record = directory / "conversion.json"
    if not record.is_file():
        report.say(f"converting for {engine}")
        partial = settings.build / f".{engine}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        result = _run_child(settings, engine, "convert", settings.build / "checkpoint", partial)
        (partial / record.name).write_text(json.dumps(result) + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    conversion: dict[str, Any] = json.loads(record.read_text())
    return conversion


def measure(settings: Settings, engine: str, seed: int) -> dict[str, Any]:
    """Run an engine in a child process: its speeds, memory, load time, and what else it says of itself.

    `others` is the share of the machine's processor time that other programs took meanwhile. A run that they disturbed
    is repeated as the settings allow; the least disturbed counts.
    """
    best = _measure_once(settings, engine, seed)
    for _ in range(settings.repeats):
        if best["others"] <= report.DISTURBED:
            break
        best = min(best, _measure_once(settings, engine, seed), key=lambda run: run["others"])
    return best


def _measure_once(settings: Settings, engine: str, seed: int) -> dict[str, Any]:
    directory = settings.build / _kind(engine)
    children.read(directory)
    options = {
        "--threads": settings.threads,
        "--prompt-tokens": settings.prompt_tokens,
        "--new-tokens": settings.new_tokens,
        "--vocabulary": settings.shape.vocab_size,
        "--seed": seed,
    }
    return _run_child(settings, engine, "measure", directory, *(text for pair in options.items() for text in pair))


def _run_child(settings: Settings, engine: str, action: str, *arguments: object) -> dict[str, Any]:
    python = settings.pythons.get(engine, Path(sys.executable))
    command = [str(python), str(_CHILD), action, MODULES[_kind(engine)], *map(str, arguments)]
    try:
        return children.run(command, settings.threads)
    except NotInstalledError as error:
        raise ChildError(f"not installed: {error}; {_INSTALL[_kind(engine)]}") from error
    except ChildError as error:
        raise ChildError(f"{action} {error}") from error


def _pythons(choices: list[str]) -> dict[str, Path]:
    """Interpreters by engine: those that were named, and the environment that `make bench-peers` makes."""
    own = ROOT / "build" / "peers" / "openvino"
    found = [path for path in (own / "bin" / "python", own / "Scripts" / "python.exe") if path.is_file()]
    pythons = {"openvino-genai": found[0]} if found else {}
    for choice in choices:
        engine, _, path = choice.partition("=")
        if _kind(engine) not in MODULES or not Path(path).is_file():
            raise UsageError(f"--python {choice} names no engine or no interpreter.", "Write --python ENGINE=PATH.")
        pythons[engine] = Path(path)
    return pythons


def _kind(engine: str) -> str:
    """The engine that a second build is of: `native@old` is `native`."""
    return engine.partition("@")[0]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b", help="Shape of the model.")
    parser.add_argument("--json", type=Path, help="Write the results here.")
    parser.add_argument("--plot", type=Path, help="Plot them, as PNG or SVG (needs matplotlib).")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds.")
    parser.add_argument(
        "--repeats", type=int, default=3, help="Maximum repetitions of a run that other programs disturb."
    )
    parser.add_argument("--threads", type=int, default=2, help="Number of threads.")
    parser.add_argument("--prompt-tokens", type=int, default=256, help="Prompt tokens.")
    parser.add_argument("--new-tokens", type=int, default=64, help="New tokens.")
    parser.add_argument("--engines", nargs="+", choices=MODULES, default=list(MODULES), help="Engines to measure.")
    parser.add_argument(
        "--python", action="append", default=[], metavar="ENGINE[@LABEL]=PATH", help="Python interpreter of an engine."
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench", help="Directory of the models.")
    parser.add_argument("--rebuild", action="store_true", help="Convert again.")
    arguments = parser.parse_args()
    for name in ("rounds", "threads", "prompt_tokens", "new_tokens"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} has to be at least 1")
    return arguments


def main() -> int:
    arguments = _parse()
    try:
        settings = Settings(
            SHAPES[arguments.shape],
            arguments.build.resolve() / arguments.shape,
            arguments.threads,
            arguments.prompt_tokens,
            arguments.new_tokens,
            _pythons(arguments.python),
            arguments.repeats,
        )
        builds = [engine for engine in settings.pythons if "@" in engine]
        results = compare(settings, arguments.engines + builds, arguments.rounds, arguments.rebuild)
        described = {name: getattr(arguments, name) for name in ("shape", "threads", "prompt_tokens", "new_tokens")}
        results = {**described, **results}
        report.show(results)
        if arguments.json:
            report.write_json(results, arguments.json)
        if arguments.plot:
            report.plot(results, arguments.plot)
    except EdgeReasonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # most likely a full disk: models of a gigabyte are written
        print(f"error: {error.filename or arguments.build}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0 if results["engines"] else 1


if __name__ == "__main__":
    sys.exit(main())
