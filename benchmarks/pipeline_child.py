"""One pipeline in a process of its own, measured once.

    pipeline_child.py MODULE BUNDLE --threads N --limit N --options JSON < QUESTIONS

MODULE is a file in benchmarks/pipelines, QUESTIONS a JSON list. The first question warms up; of the others, medians
are printed as JSON in the last line of the output. A limit of 0 lets the stages end by themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from engines.child import MISSING, peak_rss_mb

FIGURES = ("first_guidance_s", "first_answer_s", "handover_s", "total_s")


def measure(pipeline: Any, question: str) -> dict[str, float]:
    """Ask one question; all durations in seconds from its beginning, `handover_s` between the two stages.

    Raises:
        RuntimeError: a stage said nothing.
    """
    start = time.perf_counter()
    times: dict[str, list[float]] = {"guidance": [], "answer": []}
    for stage in pipeline.ask(question):
        times[stage].append(time.perf_counter() - start)
    total = time.perf_counter() - start
    if not times["guidance"] or not times["answer"]:
        raise RuntimeError(f"no {'answer' if times['guidance'] else 'guidance'} came")
    return {
        "first_guidance_s": times["guidance"][0],
        "first_answer_s": times["answer"][0],
        "handover_s": times["answer"][0] - times["guidance"][-1],
        "total_s": total,
        "pieces": float(sum(map(len, times.values()))),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    warm_up, *questions = json.load(sys.stdin)
    try:
        module = import_module(f"pipelines.{arguments.module}")
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return MISSING
    start = time.perf_counter()
    pipeline = module.Pipeline(arguments.bundle, arguments.threads, arguments.limit or None, arguments.options)
    load_s = time.perf_counter() - start
    measure(pipeline, warm_up)
    runs = [measure(pipeline, question) for question in questions]
    figures = {name: median(run[name] for run in runs) for name in (*FIGURES, "pieces")}
    print(json.dumps({**figures, "peak_rss_mb": peak_rss_mb(), "load_s": load_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
