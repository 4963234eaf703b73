"""Latency of the two-stage pipeline, with each optimization, compared with two models called one after the other.

    python benchmarks/latency.py [--pair qwen2.5-0.5b|example ...] [--json FILE] [--plot FILE.png] [--rounds 5]
                                 [--threads 2] [--runs NAME ...] [--rebuild]

The random pair has the shape of Qwen2.5-0.5B: a question of 80 tokens, guidance and answer of 128 tokens each, end
tokens off, greedy. The example is the default model (examples/word_problems) with real questions; its stages end at
their end tokens. Runs alternate, round after round, each in a process of its own with new questions; figures are
medians. Models are generated once, in build/bench/latency.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import children
import numpy as np
import report
from checkpoint import SHAPES
from children import ChildError, NotInstalledError
from pair import text, write_pair
from pipeline_child import FIGURES
from power import joules
from rich.console import Console
from rich.table import Table

from edgereason.errors import EdgeReasonError
from edgereason.export import export

ROOT = Path(__file__).resolve().parent.parent
QUESTION_TOKENS = 80
NEW_TOKENS = 128
CONTEXT = 1024
BASELINE = "two llama.cpp models"
_ROUND_QUESTIONS = 3  # one of them warms up
_CHILD = ROOT / "benchmarks" / "pipeline_child.py"


@dataclass(frozen=True)
class Run:
    """One line of the table: a program, the bundle that it runs, and what is switched on."""

    name: str
    module: str
    format: str
    layout: str = "merged"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def bundle(self) -> str:
        return f"{self.format}-{self.layout}"


_LOSSLESS = ("overlapped_prefill", "prefix_cache")  # on the random pair nothing repeats: speculation stays off there


def _native(name: str, layout: str, *on: str) -> Run:
    return Run(f"native, {layout}: {name}", "ours", "native", layout, {"on": on})


RUNS = (
    Run(BASELINE, "two_llamas", "gguf"),
    Run("two onnxruntime-genai models", "two_genais", "onnx"),
    Run("llama.cpp, merged: no optimizations", "ours", "gguf", "merged", {"on": ()}),
    Run("llama.cpp, merged: speculation", "ours", "gguf", "merged", {"on": ("speculation",)}),
    Run("llama.cpp, shared: no optimizations", "ours", "gguf", "shared", {"on": ()}),
    Run("onnx, merged", "ours", "onnx", "merged", {"on": ()}),
    _native("no optimizations", "merged"),
    _native("prefix cache", "merged", "prefix_cache"),
    _native("speculation", "merged", "speculation"),
    _native("no optimizations", "shared"),
    _native("overlapped prefill", "shared", "overlapped_prefill"),
    _native("prefix cache", "shared", "prefix_cache"),
    _native("speculation", "shared", "speculation"),
    _native("all but speculation", "shared", *_LOSSLESS),
    _native("all", "shared", *_LOSSLESS, "speculation"),
)


@dataclass(frozen=True)
class Pair:
    """A base with two adapters, and the questions for it."""

    name: str
    sources: Path
    bundles: Path
    limit: int
    """Tokens of each stage, whatever they are; 0 where the stages end by themselves."""

    def questions(self, seed: int) -> list[str]:
        """A question to warm up, and those to measure."""
        if self.limit:
            generator = np.random.default_rng(seed)
            return [text(QUESTION_TOKENS, generator) for _ in range(_ROUND_QUESTIONS)]
        lines = (self.sources / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
        first = seed * _ROUND_QUESTIONS * 4
        return [json.loads(lines[i % len(lines)])["question"] for i in range(first, first + _ROUND_QUESTIONS * 4)]

    def bundle(self, run: Run, rebuild: bool) -> Path:
        """The bundle that a run needs, exported unless it is there."""
        out = self.bundles / run.bundle
        if rebuild or not (out / "bundle.json").is_file():
            report.say(f"{self.name}: exporting {run.bundle}")
            base, guidance, answer = (self.sources / part for part in ("base", "guidance", "answer"))
            # Random weights are worth neither a proof nor an importance matrix.
            options = {"format": run.format, "layout": run.layout, "verify": False, "imatrix": False}
            export(base, guidance, answer, out, replace=True, **options)
        return out


def pair_of(name: str, build: Path) -> Pair:
    """The example, or a random pair of a shape, written unless it is there."""
    if name == "example":
        return Pair(name, ROOT / "examples" / "word_problems", build / name, 0)
    write_pair(SHAPES[name], build / name / "pair")
    return Pair(name, build / name / "pair", build / name, NEW_TOKENS)


def compare(pair: Pair, runs: list[Run], rounds: int, threads: int, rebuild: bool = False) -> dict[str, Any]:
    """Measure runs in turn.

    Returns:
        `{"pair", "runs": [{"name", "first_guidance_s", "first_answer_s", "handover_s", "total_s", "peak_rss_mb",
        "load_s", "joules", ...}], "ratios": [{"name", "total", ...}], "rounds", "skipped"}`: medians over the rounds,
        and of each figure the median of its ratio to the baseline's in the same round.
    """
    bundles = {run.bundle: pair.bundle(run, rebuild) for run in runs}
    for bundle in bundles.values():
        children.read(bundle)
    measured: list[dict[str, dict[str, Any]]] = []
    skipped: dict[str, str] = {}
    for number in range(rounds):
        measured.append({})
        running = [run for run in runs if run.name not in skipped]
        first = number % max(1, len(running))
        for run in running[first:] + running[:first]:
            report.say(f"{pair.name}, round {number + 1} of {rounds}: {run.name}")
            try:
                measured[-1][run.name] = _measure(pair, run, bundles[run.bundle], number, threads)
            except NotInstalledError as error:
                skipped[run.name] = f"not installed: {error}"
            except ChildError as error:
                skipped[run.name] = str(error)
    report.say("")
    names = [run.name for run in runs if run.name not in skipped]
    return {"pair": pair.name, **summarize(measured, names), "rounds": measured, "skipped": skipped}


def summarize(rounds: list[dict[str, dict[str, Any]]], names: list[str]) -> dict[str, Any]:
    """Medians and ratios; see `compare`."""
    figures = (*FIGURES, "peak_rss_mb", "load_s", "joules")

    def middle(name: str, figure: str) -> float | None:
        values = [each[name][figure] for each in rounds if each[name].get(figure) is not None]
        return median(values) if values else None

    ratios = []
    for name in names if BASELINE in names else ():
        ratio = {
            figure: median(each[name][figure] / each[BASELINE][figure] for each in rounds)
            for figure in (*FIGURES, "peak_rss_mb", "load_s")
        }
        ratios.append({"name": name, **ratio})
    return {
        "runs": [{"name": name, **{each: middle(name, each) for each in figures}} for name in names],
        "ratios": ratios,
    }


def _measure(pair: Pair, run: Run, bundle: Path, seed: int, threads: int) -> dict[str, Any]:
    options = json.dumps({"context": CONTEXT, **run.options})
    command = [sys.executable, str(_CHILD), run.module, str(bundle), "--threads", str(threads)]
    command += ["--limit", str(pair.limit), "--options", options]
    with joules() as used:
        result = children.run(command, threads, json.dumps(pair.questions(seed)))
    return {**result, "joules": used()}


def show(results: dict[str, Any], threads: int, console: Console) -> None:
    """Print one pair's table."""
    rounds = len(results["rounds"])
    caption = f"{threads} threads, medians of {rounds} rounds; in brackets, of {BASELINE}, median within a round."
    table = Table(title=f"{results['pair']}, int4", caption=caption)
    table.add_column("run", no_wrap=True)
    for column in ("first\nguidance ms", "first\nanswer ms", "hand-over\nms", "total\nms", "peak\nMB", "load\nms"):
        table.add_column(column, justify="right")
    ratios = {each["name"]: each for each in results["ratios"]}
    for each in results["runs"]:
        ratio = ratios.get(each["name"], {})
        cells = [
            f"{each[figure] * (1 if figure == 'peak_rss_mb' else 1000):,.0f}"
            + (f" ({ratio[figure]:.2f}x)" if figure in ratio and figure != "load_s" else "")
            for figure in (*FIGURES, "peak_rss_mb", "load_s")
        ]
        table.add_row(each["name"], *cells)
    console.print(table)
    for name, reason in results["skipped"].items():
        console.print(f"{name}: {reason}", markup=False)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw each run's two stages on a time axis.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = report.new_figure(9, 1.5 + 0.35 * sum(len(each["runs"]) for each in results))
    for axes, each in zip(figure.subplots(len(results), 1, squeeze=False)[:, 0], results, strict=True):
        names = [run["name"] for run in each["runs"]]
        first, answer, total, gap = (
            np.array([run[figure] for run in each["runs"]])
            for figure in ("first_guidance_s", "first_answer_s", "total_s", "handover_s")
        )
        axes.barh(names, first, color="tab:gray", label="until the first token")
        axes.barh(names, answer - gap - first, left=first, color="tab:blue", label="guidance")
        axes.barh(names, gap, left=answer - gap, color="tab:red", label="hand-over")
        axes.barh(names, total - answer, left=answer, color="tab:green", label="answer")
        axes.invert_yaxis()
        axes.set(title=each["pair"], xlabel="seconds")
    figure.axes[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [run.name for run in RUNS]
    parser.add_argument("--pair", nargs="+", choices=[*SHAPES, "example"], default=["qwen2.5-0.5b", "example"])
    parser.add_argument("--json", type=Path, help="Write the results here.")
    parser.add_argument("--plot", type=Path, help="Plot them, as PNG or SVG (needs matplotlib).")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds.")
    parser.add_argument("--threads", type=int, default=2, help="Number of threads.")
    parser.add_argument("--runs", nargs="+", choices=names, default=names, metavar="NAME", help="Runs to measure.")
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "bench" / "latency", help="Directory of the models."
    )
    parser.add_argument("--rebuild", action="store_true", help="Export again.")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads have to be at least 1")
    return arguments


def main() -> int:
    arguments = _parse()
    runs = [run for run in RUNS if run.name in arguments.runs]
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        results = []
        for name in arguments.pair:
            pair = pair_of(name, arguments.build.resolve())
            results.append(compare(pair, runs, arguments.rounds, arguments.threads, arguments.rebuild))
            show(results[-1], arguments.threads, console)
        if arguments.json:
            every = [{**run, "name": f"{each['pair']}: {run['name']}"} for each in results for run in each["runs"]]
            report.write_json({"runs": every, "pairs": results, "threads": arguments.threads}, arguments.json)
        if arguments.plot:
            plot(results, arguments.plot)
    except EdgeReasonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if any(each["runs"] for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
