"""What `edgereason bench` measures: prefill and decode speed, latency and memory of a bundle on this machine.

Each bundle runs in a process of its own, so that the memory and caches of one do not affect the next:

    python -m edgereason.benchmark BUNDLE --questions N [--threads N]

is that process and prints one JSON object. `measure_speed` starts it; `compare_speeds` alternates between several
bundles, round after round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgereason import configuration
from edgereason.bundle import DEFAULT_BUNDLE, STAGES
from edgereason.errors import EdgeReasonError, EngineError, UsageError
from edgereason.hardware import fitting_threads, peak_rss_mb
from edgereason.language_model import LanguageModel
from edgereason.pipeline.reasoner import load
from edgereason.pipeline.results import Result, Timings
from edgereason.problems.arithmetic.generator import arithmetic_problems

PROMPT_TOKENS = 128
NEW_TOKENS = 32
"""Lengths of the run on random tokens that measures prefill and decode speed."""

QUESTIONS_SEED = 7
"""Random seed of the word problems that are asked."""


@dataclass(frozen=True)
class Percentiles:
    """Median and 95th percentile of durations, in seconds."""

    p50: float
    p95: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Percentiles:
        return cls(float(np.quantile(durations, 0.5)), float(np.quantile(durations, 0.95)))


@dataclass(frozen=True)
class StageSpeed:
    """The speed of one stage.

    Attributes:
        prefill_tok_s: Prompt tokens per second, with an empty KV cache.
        decode_tok_s: Generated tokens per second after that prompt.
        ttft: Time to first token over the questions, with every optimization on.
        tpot: Time per output token after the first, over the questions.
    """

    prefill_tok_s: float
    decode_tok_s: float
    ttft: Percentiles
    tpot: Percentiles


@dataclass(frozen=True)
class BundleSpeed:
    """The speed of a bundle on this machine.

    Attributes:
        bundle: Its path.
        engine: The engine of the answer stage.
        layout: `merged` or `shared`.
        threads: Threads of the engine.
        questions: Number of questions measured, after one warm-up question.
        load_s: Seconds to load the bundle.
        peak_rss_mb: Peak resident memory of the process, in 10^6 bytes, mapped files included; 0 where unknown.
        handover: Time from the last guidance token to the first answer token.
        total: Time per question, both stages.
        stages: The speed of each stage.
        timeline: For the question with the median total time, when each stage decodes: `(start, end)` in seconds since
            the question was asked.
    """

    bundle: str
    engine: str
    layout: str
    threads: int
    questions: int
    load_s: float
    peak_rss_mb: float
    handover: Percentiles
    total: Percentiles
    stages: dict[str, StageSpeed]
    timeline: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BundleSpeed:
        stages = {
            name: StageSpeed(
                stage["prefill_tok_s"],
                stage["decode_tok_s"],
                Percentiles(**stage["ttft"]),
                Percentiles(**stage["tpot"]),
            )
            for name, stage in value["stages"].items()
        }
        timeline = {name: (span[0], span[1]) for name, span in value["timeline"].items()}
        spreads = {name: Percentiles(**value[name]) for name in ("handover", "total")}
        return cls(**{**value, **spreads, "stages": stages, "timeline": timeline})


def measure_speed(
    bundle: Path | None, questions: int = 8, threads: int | None = None, gpu_layers: int | None = None
) -> BundleSpeed:
    """Measure a bundle in a child process.

    Args:
        bundle: Its directory; the default bundle when None.
        questions: Number of questions to measure.
        threads: Threads of the engine; the user's own choice or one per physical core when None.
        gpu_layers: Layers that llama.cpp offloads to a GPU; all that its build can when None.

    Raises:
        UsageError: `questions` is below 1.
        EngineError: the bundle does not load or does not answer; the message is the child's.
    """
    if questions < 1:
        raise UsageError(f"questions is {questions}.", "Give 1 or more.")
    command = [
        sys.executable,
        "-m",
        "edgereason.benchmark",
        str(bundle or DEFAULT_BUNDLE),
        "--questions",
        str(questions),
    ]
    command += ["--threads", str(threads)] if threads else []
    command += ["--gpu-layers", str(gpu_layers)] if gpu_layers is not None else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise EngineError(lines[-1].removeprefix("error: "))
    return BundleSpeed.from_json(json.loads(done.stdout.splitlines()[-1]))


def compare_speeds(
    bundles: Sequence[Path | None],
    rounds: int = 3,
    questions: int = 8,
    threads: int | None = None,
    gpu_layers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[BundleSpeed]:
    """Measure several bundles alternately; returns for each the round with the median total time.

    A round is kept as a whole, so that all figures of a bundle come from the same run.

    Args:
        bundles: Their directories; None is the default bundle.
        rounds: How often each bundle is measured.
        questions: As for `measure_speed`.
        threads: As for `measure_speed`.
        gpu_layers: As for `measure_speed`.
        progress: Called with the runs done and their number.
    """
    report = progress or _silent
    runs: list[list[BundleSpeed]] = [[] for _ in bundles]
    report(0, rounds * len(bundles))
    for turn in range(rounds):
        for index, bundle in enumerate(bundles):
            runs[index].append(measure_speed(bundle, questions, threads, gpu_layers))
            report(turn * len(bundles) + index + 1, rounds * len(bundles))
    return [sorted(each, key=lambda speed: speed.total.p50)[len(each) // 2] for each in runs]


def best_threads(bundle: Path | None, progress: Callable[[int, int], None] | None = None) -> dict[int, float]:
    """Median seconds per question by number of threads, the recommended number first.

    Recommends fewer threads unless more are at least 3% faster, which is how far two measurements differ.

    Args:
        bundle: Its directory; the default bundle when None.
        progress: Called with the runs done and their number.
    """
    report = progress or _silent
    counts = list(range(1, fitting_threads() + 1))
    runs: dict[int, list[float]] = {count: [] for count in counts}
    report(0, 3 * len(counts))
    for turn in range(3):
        for index, count in enumerate(counts):
            runs[count].append(measure_speed(bundle, 4, count).total.p50)
            report(turn * len(counts) + index + 1, 3 * len(counts))
    seconds = {count: median(each) for count, each in runs.items()}
    best = counts[0]
    for count in counts[1:]:
        if seconds[count] < 0.97 * seconds[best]:
            best = count
    return {best: seconds[best], **seconds}


def _silent(done: int, total: int) -> None:
    pass


def _measure_here(bundle: Path, questions: int, threads: int | None, gpu_layers: int | None) -> BundleSpeed:
    with load(bundle, threads=threads, gpu_layers=gpu_layers) as reasoner:
        load_s = reasoner.load_s
        warm_up, *asked = (problem.question for problem in islice(arithmetic_problems(QUESTIONS_SEED), questions + 1))
        reasoner.ask(warm_up, temperature=0.0)
        results = [reasoner.ask(question, temperature=0.0) for question in asked]
        stages = {name: _stage(reasoner.models[name], name, results) for name in STAGES}
        typical = sorted(results, key=lambda result: result.timings.total_s)[len(results) // 2]
        return BundleSpeed(
            bundle=str(bundle),
            engine=reasoner.models["answer"].engine.name,
            layout=reasoner.bundle.layout,
            threads=configuration.threads(threads) or fitting_threads(),
            questions=questions,
            load_s=load_s,
            peak_rss_mb=peak_rss_mb(),
            handover=Percentiles.of([result.timings.handover_s for result in results]),
            total=Percentiles.of([result.timings.total_s for result in results]),
            stages=stages,
            timeline=_timeline(typical.timings),
        )


def _stage(model: LanguageModel, name: str, results: Sequence[Result]) -> StageSpeed:
    timings = [getattr(result.timings, name) for result in results]
    per_token = [each.decode_s / (each.new_tokens - 1) for each in timings if each.new_tokens > 1]
    prefill, decode = zip(*(_random_run(model, seed) for seed in range(3)), strict=True)
    return StageSpeed(
        prefill_tok_s=PROMPT_TOKENS / median(prefill),
        decode_tok_s=NEW_TOKENS / median(decode),
        ttft=Percentiles.of([each.ttft_s for each in timings]),
        tpot=Percentiles.of(per_token or [0.0]),
    )


def _random_run(model: LanguageModel, seed: int) -> tuple[float, float]:
    """Seconds for the prefill of random tokens, and for decoding after it."""
    length = min(PROMPT_TOKENS, model.engine.context_length - NEW_TOKENS - 1)
    prompt = np.random.default_rng(seed).integers(0, model.engine.vocab_size, length).tolist()
    session = model.session(length + NEW_TOKENS + 1)
    try:
        begin = time.perf_counter()
        token = int(session.advance(prompt)[-1].argmax())
        first = time.perf_counter()
        for _ in range(NEW_TOKENS):
            token = int(session.advance([token])[-1].argmax())
        return first - begin, time.perf_counter() - first
    finally:
        session.close()


def _timeline(timings: Timings) -> dict[str, tuple[float, float]]:
    guidance, answer = timings.guidance, timings.answer
    ended = guidance.ttft_s + guidance.decode_s
    began = ended + timings.handover_s
    return {"guidance": (guidance.ttft_s, ended), "answer": (began, began + answer.decode_s)}


def plot_stages(speeds: Sequence[BundleSpeed], path: Path) -> None:
    """Plot the two stages of each bundle's median question on a time axis, as PNG or SVG.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib, which is not installed.", "pip install matplotlib") from error
    figure = Figure(figsize=(8, 1.8 + 0.5 * len(speeds)), layout="constrained")
    axes = figure.subplots()
    names = [f"{Path(speed.bundle).name} ({speed.engine}, {speed.layout})" for speed in speeds]
    for row, speed in enumerate(speeds):
        (first, ended), (began, done) = speed.timeline["guidance"], speed.timeline["answer"]
        spans = [(0.0, first, "prefill", "tab:gray"), (first, ended, "guidance", "tab:blue")]
        spans += [(ended, began, "hand-over", "tab:red"), (began, done, "answer", "tab:green")]
        for start, end, label, color in spans:
            axes.barh(row, 1000 * (end - start), left=1000 * start, color=color, label=None if row else label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds", title="One question")
    figure.legend(fontsize="small", ncols=4, loc="outside lower center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Measure in this process, for `measure_speed`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--questions", type=int, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int)
    arguments = parser.parse_args()
    try:
        speed = _measure_here(arguments.bundle, arguments.questions, arguments.threads, arguments.gpu_layers)
    except EdgeReasonError as error:
        print(f"error: {error.what}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(speed.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
