"""One engine in a process of its own: convert a checkpoint for it, or measure it once.

    child.py convert MODULE CHECKPOINT OUT
    child.py measure MODULE DIRECTORY --threads N --prompt-tokens N --new-tokens N --vocabulary N --seed N

MODULE is a file beside this one. Neither this file nor those of the peers import anything of ours or of each other to
measure, so that each runs in whatever environment its engine is installed in. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

MISSING = 3
"""Exit status where the engine is not installed."""

_WARM_UP_TOKENS = 8


def peak_rss_mb() -> float:
    """The most memory that this process has held, in 10^6 bytes, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # elsewhere than on Linux, where this would count the parent's memory before exec

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(module: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, run one prompt to warm up, and time another one."""
    import numpy as np  # not earlier: where an engine is missing, this may be too

    generator = np.random.default_rng(arguments.seed)
    # 0 is the end token, which some engines look for.
    warm_up, prompt = generator.integers(1, arguments.vocabulary, (2, arguments.prompt_tokens)).tolist()
    start = time.perf_counter()
    capacity = arguments.prompt_tokens + arguments.new_tokens + 8
    model = module.Model(arguments.directory, arguments.threads, capacity)
    model.generate(warm_up[:1], 1, lambda token: None)
    load_s = time.perf_counter() - start

    model.generate(warm_up, _WARM_UP_TOKENS, lambda token: None)
    times: list[float] = []
    start = time.perf_counter()
    # The first token comes from the prompt: one more than are decoded.
    model.generate(prompt, arguments.new_tokens + 1, lambda token: times.append(time.perf_counter()))
    if len(times) != arguments.new_tokens + 1:
        raise RuntimeError(f"{len(times)} tokens came instead of {arguments.new_tokens + 1}")
    return {
        "prefill_tok_s": len(prompt) / (times[0] - start),
        "decode_tok_s": arguments.new_tokens / (times[-1] - times[0]),
        "peak_rss_mb": peak_rss_mb(),
        "load_s": load_s,
        **module.about(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    converting, measuring = actions.add_parser("convert"), actions.add_parser("measure")
    for action in (converting, measuring):
        action.add_argument("module")
        action.add_argument("directory", type=Path)
    converting.add_argument("out", type=Path)
    for name in ("--threads", "--prompt-tokens", "--new-tokens", "--vocabulary", "--seed"):
        measuring.add_argument(name, type=int, required=True)
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    try:
        module = import_module(arguments.module)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return MISSING
    if arguments.action == "convert":
        result = {"bytes_per_token": module.convert(arguments.directory, arguments.out), **module.about()}
    else:
        result = measure(module, arguments)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
