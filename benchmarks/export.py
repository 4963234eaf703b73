"""Export time, compared with other programs on the same checkpoint.

    python benchmarks/export.py [--shape qwen2.5-0.5b] [--json FILE] [--rounds 1] [--threads 2] [--verify]
                                [--only native onnx ...] [--python optimum-intel=PATH]

A checkpoint with random weights is written once, under build/bench, and read into the page cache. Then the exports run
in turn, round after round, each in a process of its own; what they write is removed. The clock starts before libraries
are imported. Reported are medians over the rounds, and for each of ours the ratio to the fastest peer of the comparable
format. Ours go from the checkpoint to a model's files, as the peers do: without an adapter and without the fidelity
report. `--verify` measures, too, what an export of two models with adapters takes without and with the report. A peer
that is not installed is named and left out; EDGEREASON_CONVERTER names llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import children
import report
from checkpoint import SHAPES, write_checkpoint
from children import ChildError
from pair import write_pair
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
_CHILD = ROOT / "benchmarks" / "exporters" / "child.py"
_OPENVINO = ROOT / "build" / "peers" / "openvino" / "bin" / "python"


@dataclass(frozen=True)
class Exporter:
    """A way to export: a function in a file of benchmarks/exporters."""

    module: str
    function: str
    peers: tuple[str, ...] = ()
    """Of ours: the programs that write a comparable format."""


EXPORTERS = {
    "native": Exporter("ours", "native", ("llama.cpp Q4_0", "onnxruntime-genai", "optimum-intel")),
    "gguf Q4_0": Exporter("ours", "q4_0", ("llama.cpp Q4_0",)),
    "gguf Q4_K_M": Exporter("ours", "q4_k_m", ("llama.cpp Q4_K_M",)),
    "onnx": Exporter("ours", "onnx", ("onnxruntime-genai",)),
    "llama.cpp Q4_0": Exporter("llamacpp", "q4_0"),
    "llama.cpp Q4_K_M": Exporter("llamacpp", "q4_k_m"),
    "onnxruntime-genai": Exporter("builder", "onnx"),
    "optimum-intel": Exporter("optimum_intel", "openvino"),
}
_PAIRS = {"pair native": "unverified", "pair native, verified": "verified"}


def compare(
    checkpoint: Path, names: list[str], rounds: int, threads: int, pythons: dict[str, str]
) -> tuple[list[dict[str, dict[str, Any]]], dict[str, str]]:
    """Export in turn: of each round the figures by name, and what was left out, with the reason."""
    children.read(checkpoint)
    measured: list[dict[str, dict[str, Any]]] = []
    skipped: dict[str, str] = {}
    for number in range(rounds):
        measured.append({})
        running = [name for name in names if name not in skipped]
        first = number % max(1, len(running))  # another one begins each time
        for name in running[first:] + running[:first]:
            report.say(f"round {number + 1} of {rounds}: {name}")
            exporter, out = EXPORTERS[name], checkpoint.parent / "exported"
            shutil.rmtree(out, ignore_errors=True)
            python = pythons.get(name, sys.executable)
            command = [python, str(_CHILD), exporter.module, exporter.function, str(checkpoint), str(out)]
            try:
                measured[-1][name] = children.run(command, threads)
            except ChildError as failure:
                skipped[name] = str(failure)
            shutil.rmtree(out, ignore_errors=True)
    report.say("")
    return measured, skipped


def measure_pair(directory: Path, threads: int) -> dict[str, dict[str, Any]]:
    """What `edgereason export` takes for two models, with its start: without the fidelity report, and with it."""
    results = {}
    for name, function in _PAIRS.items():
        report.say(name)
        command = [sys.executable, str(_CHILD), "whole", function, str(directory / "base"), str(directory / "exported")]
        results[name] = children.run(command, threads)
        shutil.rmtree(directory / "exported", ignore_errors=True)
    report.say("")
    return results


def summarize(measured: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of each way that ran in every round the medians, and of ours the ratio to the fastest peer (below 1: faster).

    The ratio is the median over the rounds, each with the peer that was fastest in it.
    """
    complete = [name for name in EXPORTERS if all(name in each for each in measured)]
    results = []
    for name in complete:
        entry: dict[str, Any] = {"export": name}
        for figure in ("seconds", "processor_s", "peak_rss_mb", "size_mb", "others"):
            entry[figure] = median(each[name][figure] for each in measured)
        peers = [peer for peer in EXPORTERS[name].peers if peer in complete]
        if peers:
            fastest = [min(each[peer]["seconds"] for peer in peers) for each in measured]
            entry["ratio"] = median(each[name]["seconds"] / best for each, best in zip(measured, fastest, strict=True))
            entry["peers"] = peers
        results.append(entry)
    return results


def show(results: list[dict[str, Any]], pairs: dict[str, dict[str, Any]], skipped: dict[str, str]) -> None:
    """Print a table."""
    table = Table("export", "seconds", "processor s", "peak MB", "written MB", "of fastest peer", "others")
    for entry in [*results, *({"export": name, **figures} for name, figures in pairs.items())]:
        ratio = f"{entry['ratio']:.2f}" if "ratio" in entry else ""
        time = (f"{entry['seconds']:.1f}", f"{entry['processor_s']:.1f}")
        row = (*time, f"{entry['peak_rss_mb']:.0f}", f"{entry['size_mb']:.0f}", ratio)
        table.add_row(entry["export"], *row, f"{entry['others']:.0%}")
    console = Console()
    console.print(table)
    for name, reason in skipped.items():
        console.print(f"{name}: left out, {reason}", highlight=False)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b", help="Shape of the model.")
    parser.add_argument("--json", type=Path, help="Write the results here.")
    parser.add_argument("--rounds", type=int, default=1, help="Number of rounds.")
    parser.add_argument("--threads", type=int, default=2, help="Number of threads, for exporters that have the option.")
    parser.add_argument("--only", nargs="+", choices=EXPORTERS, default=list(EXPORTERS), help="Exporters to measure.")
    parser.add_argument(
        "--verify", action="store_true", help="Also measure the export of two models with the fidelity report."
    )
    parser.add_argument(
        "--python", action="append", default=[], metavar="EXPORT=PATH", help="Python interpreter of an exporter."
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "bench", help="Directory of the checkpoint.")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads have to be at least 1")
    if any(choice.partition("=")[0] not in EXPORTERS or "=" not in choice for choice in arguments.python):
        parser.error("--python has to be EXPORT=PATH")
    return arguments


def main() -> int:
    arguments = _parse()
    directory = arguments.build.resolve() / arguments.shape
    pythons = {"optimum-intel": str(_OPENVINO)} if _OPENVINO.exists() else {}
    pythons |= dict(choice.split("=", 1) for choice in arguments.python)
    write_checkpoint(SHAPES[arguments.shape], directory / "checkpoint")
    measured, skipped = compare(directory / "checkpoint", arguments.only, arguments.rounds, arguments.threads, pythons)
    pairs: dict[str, dict[str, Any]] = {}
    if arguments.verify:
        write_pair(SHAPES[arguments.shape], directory / "pair")
        pairs = measure_pair(directory / "pair", arguments.threads)
    results = summarize(measured)
    show(results, pairs, skipped)
    if arguments.json:
        described = {"shape": arguments.shape, "threads": arguments.threads}
        found = {**described, "exports": results, "pairs": pairs, "skipped": skipped, "rounds": measured}
        report.write_json(found, arguments.json)
    return 0 if results else 1


if __name__ == "__main__":
    sys.exit(main())
