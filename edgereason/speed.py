"""How fast a bundle is on this machine: both stages' speeds, waits, memory, measured in a process of its own.

    python -m edgereason.speed BUNDLE --questions N [--threads N]

is that process; it prints one JSON object. `measure` starts it, so that what one bundle loads does not weigh on the
next, and `compare` takes several bundles in turn, round after round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from edgereason.bundle import DEFAULT_BUNDLE, STAGES
from edgereason.errors import EdgeReasonError, EngineError, UsageError
from edgereason.hardware import default_threads, fitting_threads
from edgereason.language_model import LanguageModel
from edgereason.pipeline.reasoner import load
from edgereason.pipeline.results import Result, Timings

PROMPT_TOKENS = 128
NEW_TOKENS = 32
"""Of the plain run that gives a stage's prefill and decode speed."""


@dataclass(frozen=True)
class Spread:
    """The median of some durations, and what 95% of them stay below; in seconds."""

    p50: float
    p95: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Spread:
        return cls(float(np.quantile(durations, 0.5)), float(np.quantile(durations, 0.95)))


@dataclass(frozen=True)
class StageSpeed:
    """One stage.

    Attributes:
        prefill_tok_s: Tokens of a prompt read per second, from an empty cache.
        decode_tok_s: Tokens written per second after it.
        ttft: Time to first token over the questions, what the other stage has prepared included.
        tpot: Time per output token after the first.
    """

    prefill_tok_s: float
    decode_tok_s: float
    ttft: Spread
    tpot: Spread


@dataclass(frozen=True)
class Speed:
    """A bundle on this machine.

    Attributes:
        questions: How many questions were asked; one more came before them.
        load_s: From opening the bundle to being ready.
        peak_rss_mb: The most memory that the process held, in 10^6 bytes, mapped files included; 0 where unknown.
        handover: From the last guidance token to the first answer token.
        total: A question from beginning to end.
        stages: By stage.
        timeline: Of the question with the median duration: `[start, end]` of each stage's writing, in seconds from the
            question's beginning.
    """

    bundle: str
    engine: str
    layout: str
    threads: int
    questions: int
    load_s: float
    peak_rss_mb: float
    handover: Spread
    total: Spread
    stages: dict[str, StageSpeed]
    timeline: dict[str, tuple[float, float]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Speed:
        stages = {
            name: StageSpeed(
                stage["prefill_tok_s"], stage["decode_tok_s"], Spread(**stage["ttft"]), Spread(**stage["tpot"])
            )
            for name, stage in value["stages"].items()
        }
        timeline = {name: (span[0], span[1]) for name, span in value["timeline"].items()}
        spreads = {name: Spread(**value[name]) for name in ("handover", "total")}
        return cls(**{**value, **spreads, "stages": stages, "timeline": timeline})


def measure(
    bundle: Path | None, questions: int = 8, threads: int | None = None, gpu_layers: int | None = None
) -> Speed:
    """Measure a bundle in a process of its own.

    Raises:
        UsageError: `questions` is below 1.
        EdgeReasonError: the bundle cannot be loaded or asked; the message is the child's.
    """
    if questions < 1:
        raise UsageError(f"questions is {questions}.", "Give 1 or more.")
    command = [sys.executable, "-m", "edgereason.speed", str(bundle or DEFAULT_BUNDLE), "--questions", str(questions)]
    command += ["--threads", str(threads)] if threads else []
    command += ["--gpu-layers", str(gpu_layers)] if gpu_layers is not None else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise EngineError(lines[-1].removeprefix("error: "))
    return Speed.from_json(json.loads(done.stdout.splitlines()[-1]))


def compare(
    bundles: Sequence[Path | None],
    rounds: int = 3,
    questions: int = 8,
    threads: int | None = None,
    gpu_layers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Speed]:
    """Measure bundles in turn; of each, the round with the median total duration.

    These are whole runs, so that all figures of a bundle belong together.
    """
    runs: list[list[Speed]] = [[] for _ in bundles]
    for turn in range(rounds):
        for index, bundle in enumerate(bundles):
            if progress:
                progress(turn * len(bundles) + index, rounds * len(bundles))
            runs[index].append(measure(bundle, questions, threads, gpu_layers))
    return [sorted(each, key=lambda speed: speed.total.p50)[len(each) // 2] for each in runs]


def best_threads(bundle: Path | None, progress: Callable[[int, int], None] | None = None) -> dict[int, float]:
    """Median seconds per question by number of threads, the recommended number first.

    Fewer threads are recommended unless more are at least 3% faster: what is measured twice differs by that much.
    """
    counts = list(range(1, fitting_threads() + 1))
    runs: dict[int, list[float]] = {count: [] for count in counts}
    for turn in range(3):
        for index, count in enumerate(counts):
            if progress:
                progress(turn * len(counts) + index, 3 * len(counts))
            runs[count].append(measure(bundle, 4, count).total.p50)
    seconds = {count: median(each) for count, each in runs.items()}
    best = counts[0]
    for count in counts[1:]:
        if seconds[count] < 0.97 * seconds[best]:
            best = count
    return {best: seconds[best], **seconds}


def _measure_here(bundle: Path, questions: int, threads: int | None, gpu_layers: int | None) -> Speed:
    with load(bundle, threads=threads, gpu_layers=gpu_layers) as reasoner:
        load_s = reasoner.load_s
        warm_up, *asked = [_question(number) for number in range(questions + 1)]
        reasoner.ask(warm_up, temperature=0.0)
        results = [reasoner.ask(question, temperature=0.0) for question in asked]
        stages = {name: _stage(reasoner.models[name], name, results) for name in STAGES}
        typical = sorted(results, key=lambda result: result.timings.total_s)[len(results) // 2]
        return Speed(
            bundle=str(bundle),
            engine=reasoner.models["answer"].engine.name,
            layout=reasoner.bundle.layout,
            threads=threads or default_threads(),
            questions=questions,
            load_s=load_s,
            peak_rss_mb=peak_rss_mb(),
            handover=Spread.of([result.timings.handover_s for result in results]),
            total=Spread.of([result.timings.total_s for result in results]),
            stages=stages,
            timeline=_timeline(typical.timings),
        )


def _question(number: int) -> str:
    from edgereason.export.quantization.calibration import SHIPPED

    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    return str(json.loads(lines[number % len(lines)])["question"])


def _stage(model: LanguageModel, name: str, results: Sequence[Result]) -> StageSpeed:
    timings = [getattr(result.timings, name) for result in results]
    per_token = [each.decode_s / (each.new_tokens - 1) for each in timings if each.new_tokens > 1]
    prefill, decode = zip(*(_plain_run(model, seed) for seed in range(3)), strict=True)
    return StageSpeed(
        prefill_tok_s=PROMPT_TOKENS / median(prefill),
        decode_tok_s=NEW_TOKENS / median(decode),
        ttft=Spread.of([each.ttft_s for each in timings]),
        tpot=Spread.of(per_token or [0.0]),
    )


def _plain_run(model: LanguageModel, seed: int) -> tuple[float, float]:
    """Seconds of reading a random prompt and of decoding after it."""
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


def peak_rss_mb() -> float:
    """The most memory that this process has held, in 10^6 bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def plot(speeds: Sequence[Speed], path: Path) -> None:
    """Draw the two stages of each bundle's typical question on a time axis.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs matplotlib, which is not installed.", "pip install matplotlib") from error
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(speeds)), layout="constrained")
    axes = figure.subplots()
    names = [f"{Path(speed.bundle).name} ({speed.engine}, {speed.layout})" for speed in speeds]
    for row, speed in enumerate(speeds):
        (first, ended), (began, done) = speed.timeline["guidance"], speed.timeline["answer"]
        spans = [(0.0, first, "reading", "tab:gray"), (first, ended, "guidance", "tab:blue")]
        spans += [(ended, began, "hand-over", "tab:red"), (began, done, "answer", "tab:green")]
        for start, end, label, color in spans:
            axes.barh(row, 1000 * (end - start), left=1000 * start, color=color, label=None if row else label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds", title="One question")
    axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.35))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Measure in this process, for `measure`."""
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
