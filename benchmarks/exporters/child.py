"""One export in a process of its own: `child.py MODULE FUNCTION CHECKPOINT OUT`, MODULE being a file beside this one.

The clock starts before libraries are imported: programs that are commands bring their own start, too. The last line of
the output is JSON: seconds, what all cores have computed meanwhile, the peak memory of this process or of one that it
started, and the size of the result.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib import import_module
from pathlib import Path

MISSING = 3
"""Exit status where what is measured is not installed."""


def peak_rss_mb() -> float:
    """The most memory that this process or one of its children has held, in 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit / 1e6
    )


def processor_seconds() -> float:
    """What this process and its children have computed, on all cores: other programs beside them change it little."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> int:
    name, function = sys.argv[1:3]
    checkpoint, out = map(Path, sys.argv[3:5])
    start = time.perf_counter()
    try:
        module = import_module(name)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return MISSING
    out.mkdir(parents=True)
    getattr(module, function)(checkpoint, out)
    seconds = time.perf_counter() - start
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    figures = {"seconds": seconds, "processor_s": processor_seconds(), "peak_rss_mb": peak_rss_mb()}
    print(json.dumps({**figures, "size_mb": size / 1e6}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
