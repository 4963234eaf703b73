"""The child process of `formulas.py`: compare two formulas, given as a JSON list on standard input.

    python -P algebra_process.py SECONDS MEGABYTES

It imports Math-Verify, and nothing of ours.
"""

from __future__ import annotations

import json
import sys

SAME = 87
"""How the process ends where the two are the same. One that fails has not shown it."""


def limit_memory(megabytes: int) -> None:
    """Where the system can: a power of powers asks for all there is."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 1_000_000, megabytes * 1_000_000))


def main() -> None:
    seconds = int(sys.argv[1])
    limit_memory(int(sys.argv[2]))
    from math_verify import LatexExtractionConfig, parse, verify

    one, other = (
        parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=seconds)
        for text in json.load(sys.stdin)
    )
    # Which of the two is expected makes a difference to verify(), for equations and intervals.
    same = verify(one, other, timeout_seconds=seconds) or verify(other, one, timeout_seconds=seconds)
    sys.exit(SAME if same else 0)


if __name__ == "__main__":
    main()
