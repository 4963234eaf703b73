"""Throughput of batches of questions, compared with one question at a time.

    python benchmarks/batch.py [--pair qwen2.5-0.5b] [--sizes 16] [--layouts shared merged] [--json FILE] [--rounds 3]
                               [--threads 2] [--tokens 96]

Runs the random pair of `benchmarks/latency.py`: questions of 80 tokens, guidance and answers of `--tokens` each, end
tokens off, greedy, speculation off. Batch sizes alternate, each in a process of its own, with the same questions; one
at a time, a quarter of them suffices. Figures are medians; ratios are within a round.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import children
import numpy as np
import report
from checkpoint import SHAPES
from latency import QUESTION_TOKENS, ROOT, Pair, Run, pair_of
from pair import text
from rich.console import Console
from rich.table import Table

from edgereason.errors import EdgeReasonError

_CHILD = ROOT / "benchmarks" / "batch_child.py"
_ALONE = 4  # one of so many questions is asked alone


def measure(pair: Pair, layout: str, sizes: list[int], rounds: int, threads: int, tokens: int) -> list[dict[str, Any]]:
    """Measure sizes in turn.

    Returns:
        For each size `{"layout", "size", "questions_s", "tokens_s", "ratio", "peak_rss_mb"}`: questions and tokens a
        second, how many times as many as one by one, and memory.
    """
    bundle = pair.bundle(Run("", "ours", "native", layout), rebuild=False)
    children.read(bundle)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in (1, *sizes)}
    for number in range(rounds):
        generator = np.random.default_rng(number)
        questions = [text(QUESTION_TOKENS, generator) for _ in range(max(sizes) + 1)]
        for size, figures in found.items():
            report.say(f"{layout}, round {number + 1} of {rounds}: {size} at once")
            asked = questions if size > 1 else questions[: 1 + max(sizes) // _ALONE]
            command = [sys.executable, str(_CHILD), str(bundle), "--threads", str(threads)]
            command += ["--limit", str(tokens), "--size", str(size)]
            run = children.run(command, threads, json.dumps(asked))
            rate = (len(asked) - 1) / run["seconds"]
            figures.append({"questions_s": rate, "tokens_s": run["tokens"] / run["seconds"], **run})
    report.say("")
    names = ("questions_s", "tokens_s", "peak_rss_mb")
    return [
        {
            "layout": layout,
            "size": size,
            **{name: median(each[name] for each in figures) for name in names},
            "ratio": median(
                each["questions_s"] / alone["questions_s"] for each, alone in zip(figures, found[1], strict=True)
            ),
        }
        for size, figures in found.items()
    ]


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table()
    for column in ("layout", "at once", "questions/s", "tokens/s", "of one by one", "peak MB"):
        table.add_column(column, justify="left" if column == "layout" else "right")
    for each in results:
        figures = (f"{each['questions_s']:.2f}", f"{each['tokens_s']:.0f}", f"{each['ratio']:.2f}x")
        table.add_row(each["layout"], str(each["size"]), *figures, f"{each['peak_rss_mb']:,.0f}")
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=SHAPES, default="qwen2.5-0.5b", help="Shape of the random pair.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16], help="Batch sizes.")
    parser.add_argument("--layouts", nargs="+", choices=("shared", "merged"), default=["shared", "merged"])
    parser.add_argument("--json", type=Path, help="Write the results here.")
    parser.add_argument("--rounds", type=int, default=3, help="Number of rounds.")
    parser.add_argument("--threads", type=int, default=2, help="Number of threads.")
    parser.add_argument("--tokens", type=int, default=96, help="New tokens per stage.")
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "bench" / "latency", help="Directory of the models."
    )
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads, arguments.tokens) < 1 or min(arguments.sizes) < 2:
        parser.error("--rounds, --threads and --tokens have to be at least 1, --sizes at least 2")
    try:
        pair = pair_of(arguments.pair, arguments.build.resolve())
        results = [
            figures
            for layout in arguments.layouts
            for figures in measure(pair, layout, arguments.sizes, arguments.rounds, arguments.threads, arguments.tokens)
        ]
        show(results, Console(width=None if sys.stdout.isatty() else 120))
        if arguments.json:
            report.write_json({"runs": results, "threads": arguments.threads}, arguments.json)
    except (EdgeReasonError, children.ChildError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
