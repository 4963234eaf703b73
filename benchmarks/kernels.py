"""How fast the kernels multiply, beside the memory bandwidth that one process reaches on this machine.

    python benchmarks/kernels.py [--json FILE] [--threads N] [--quick]

For each instruction set, number of rows and matrix of a 0.5B model: microseconds, GB/s of weights read (the limit for
few rows) and TOPS (the limit for many). Weights come from a set larger than the caches, as in a model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import edgereason.kernels.cpu as cpu
from edgereason.kernels import packing

# Qwen2.5-0.5B: hidden 896, intermediate 4864, 14 heads and 2 KV heads of 64; rows and columns of each product.
SHAPES = {"qkv": (1152, 896), "o": (896, 896), "gate_up": (9728, 896), "down": (896, 4864)}
ROWS = (1, 2, 4, 16, 64, 256)
_WORKING_SET = 192 << 20
_SECONDS = 0.25
_LINE = "{isa:12}{matrix:8} {bits} bits {rows:4} rows {us:9.0f} us {gb_s:7.1f} GB/s {tops:6.2f} TOPS"


def median_seconds(call: Callable[[int], object], seconds: float = _SECONDS) -> float:
    """The median time of `call(i)`, i counting up, over at least `seconds` and three calls after a warm-up."""
    call(0)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call(len(times) + 1)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def read_bandwidth() -> float:
    """Bytes per second of a dot product of 256 MB (numpy's BLAS, which reads with all its threads)."""
    data = np.ones(64 << 20, np.float32)
    return data.nbytes / median_seconds(lambda _: data @ data)


def random_weight(rows: int, columns: int, bits: int, generator: np.random.Generator) -> packing.PackedWeight:
    """Random packed bytes: speed does not depend on the values."""
    panels, blocks = -(-rows // packing.PANEL), -(-columns // packing.BLOCK)
    return packing.PackedWeight(
        generator.integers(0, 256, (panels, blocks, 64 * bits), np.uint8),
        np.full((panels, blocks, packing.PANEL), 0.01, np.float16),
        None,
        rows,
        columns,
        bits,
    )


def measure(isa: str, name: str, bits: int, m: int) -> dict[str, Any]:
    """One product of `m` rows with the matrix `name`."""
    generator = np.random.default_rng(0)
    rows, columns = SHAPES[name]
    weight = random_weight(rows, columns, bits, generator)
    copies = max(1, _WORKING_SET // weight.nbytes) if m <= 4 else 1
    weights = [cpu.prepare(random_weight(rows, columns, bits, generator)) for _ in range(copies)]
    x = generator.standard_normal((m, columns), np.float32)
    seconds = median_seconds(lambda i: cpu.linear(x, weights[i % copies]))
    return {
        "isa": isa,
        "matrix": name,
        "bits": bits,
        "rows": m,
        "us": seconds * 1e6,
        "gb_s": weight.nbytes / seconds / 1e9,
        "tops": 2 * m * rows * columns / seconds / 1e12,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="Write the figures here.")
    parser.add_argument("--threads", type=int, help="Threads; all cores when left out.")
    parser.add_argument("--quick", action="store_true", help="Only the largest matrix, 1 and 256 rows.")
    arguments = parser.parse_args()
    cpu.set_threads(arguments.threads)
    bandwidth = read_bandwidth()
    print(f"{cpu.threads()} threads, memory read at {bandwidth / 1e9:.1f} GB/s")
    results = []
    for isa in cpu.isas():
        cpu.use_isa(isa)
        for name in ("gate_up",) if arguments.quick else SHAPES:
            for bits in (4, 8):
                for m in (1, 256) if arguments.quick else ROWS:
                    if isa == "scalar" and m > 4:
                        continue  # the reference is for comparing results, and takes seconds
                    results.append(measure(isa, name, bits, m))
                    print(_LINE.format(**results[-1]))
    if arguments.json:
        report = {"machine": {"threads": cpu.threads(), "read_gb_s": bandwidth / 1e9}, "kernels": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
