"""One measurement of our pipeline in a process of its own, with questions in a batch or one after the other.

    batch_child.py BUNDLE --threads N --limit N --size N < QUESTIONS

QUESTIONS is a JSON list. The first question is a warm-up; the last line of the output has the total seconds of the
others as JSON. With a size of 1, questions run one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from engines.child import peak_rss_mb
from pipelines.ours import Pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("threads", "limit", "size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    warm_up, *questions = json.load(sys.stdin)
    # A random model repeats itself, so that speculation would gain more than on text.
    options = {"on": ("overlapped_prefill", "prefix_cache")}
    reasoner = Pipeline(arguments.bundle, arguments.threads, arguments.limit, options).reasoner
    reasoner.ask(warm_up, temperature=0.0)
    start = time.perf_counter()
    if arguments.size == 1:
        results = [reasoner.ask(question, temperature=0.0) for question in questions]
    else:
        outcomes = reasoner.batch(questions, batch_size=arguments.size, temperature=0.0)
        results = [outcome.result for outcome in outcomes if outcome.result]
    seconds = time.perf_counter() - start
    if len(results) != len(questions):
        raise SystemExit("not every question was answered")
    tokens = sum(result.timings.guidance.new_tokens + result.timings.answer.new_tokens for result in results)
    print(json.dumps({"seconds": seconds, "tokens": tokens, "peak_rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
