"""Speed of each kernel, compared with the limits of this machine.

    python benchmarks/kernels.py [--models NAME ...] [--isas avx2 ...] [--threads N] [--quick] [--json FILE]
                                 [--plot FILE]

For each instruction set: GEMV and GEMM with the matrices of Qwen2.5 models for 1 to 256 rows, attention after some
context, and row-wise kernels. Few rows are bound by memory bandwidth, many by arithmetic: the limit of a kernel is the
time to read its bytes or to do its int8 operations, whichever is longer; `machine.cpp` measures both rates in the same
run. Attention runs in float32, at most a quarter of the int8 rate. The weights exceed the caches, as in a model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import machine
import numpy as np
import report
from checkpoint import SHAPES, Shape

import edgereason.kernels.cpu as cpu
from edgereason.errors import EdgeReasonError
from edgereason.kernels import packing

ROWS = (1, 2, 4, 16, 64, 256)
CONTEXTS = (100, 1000, 4000)
_BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
_WORKING_SET = 192 << 20
_SLOW_ROWS = 4
"""Rows up to which the scalar reference is measured: it is for comparing results, and takes seconds."""


@dataclass(frozen=True)
class Case:
    """One kernel on operands of one size.

    Attributes:
        call: Runs it; its argument counts up, so that operands can be others each time.
        size: Bytes that it has to read.
        operations: Multiplications and additions.
    """

    kernel: str
    rows: int
    call: Callable[[int], object]
    size: int
    operations: int = 0


@dataclass(frozen=True)
class Result:
    """What a case reached. `limit` is what bounds it, `read` or `int8`; `fraction` is its share of that limit."""

    model: str
    isa: str
    kernel: str
    rows: int
    us: float
    gb_s: float
    tops: float
    limit: str
    fraction: float


def best_seconds(call: Callable[[int], object], seconds: float) -> float:
    """The least time of `call(i)` over at least `seconds` and three calls: what other programs disturb least."""
    call(0)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call(len(times) + 1)
        times.append(time.perf_counter() - before)
    return min(times)


def result(case: Case, model: str, limits: machine.Limits, seconds: float) -> Result:
    """Time a case with the instruction set in use."""
    isa = cpu.isa()
    took = best_seconds(case.call, seconds)
    reading = case.size / (limits.read_gb_s * 1e9)
    tops = limits.int8_tops_by_isa.get(isa)
    multiplying = case.operations / (tops * 1e12) if tops else 0.0
    limit, least = ("int8", multiplying) if multiplying > reading else ("read", reading)
    rates = case.size / took / 1e9, case.operations / took / 1e12
    return Result(model, isa, case.kernel, case.rows, took * 1e6, *rates, limit, least / took)


def random_weight(rows: int, columns: int, bits: int, generator: np.random.Generator) -> packing.PackedWeight:
    """Random packed bytes in groups of 32: speed does not depend on the values."""
    panels, blocks = -(-rows // packing.PANEL), -(-columns // packing.BLOCK)
    return packing.PackedWeight(
        generator.integers(0, 256, (panels, blocks, 64 * bits), np.uint8),
        np.full((panels, blocks, packing.PANEL), 0.01, np.float16),
        None,
        rows,
        columns,
        bits,
    )


def matrices(shape: Shape) -> dict[str, tuple[int, int, int]]:
    """Rows, columns and bits of each product of a layer, and of the output head."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    return {
        "qkv": (queries + 2 * keys, hidden, 4),
        "o": (hidden, queries, 4),
        "gate_up": (2 * inner, hidden, 4),
        "down": (hidden, inner, 4),
        "head": (shape.vocab_size, hidden, 8),
    }


def products(shape: Shape, rows: Sequence[int], working_set: int) -> Iterator[Case]:
    """Products with each matrix; the head's for few rows only, since a prompt needs the logits of its last token."""
    generator = np.random.default_rng(0)
    for name, (outputs, columns, bits) in matrices(shape).items():
        weight = random_weight(outputs, columns, bits, generator)
        copies = max(1, working_set // weight.nbytes)
        weights = [cpu.prepare(random_weight(outputs, columns, bits, generator)) for _ in range(copies)]
        for m in rows if name != "head" else [m for m in rows if m <= 16]:
            x = generator.standard_normal((m, columns), np.float32)
            call = lambda i, x=x, weights=weights: cpu.linear(x, weights[i % len(weights)])  # noqa: E731
            yield Case(f"{name} {bits} bits", m, call, weight.nbytes, 2 * m * outputs * columns)


def attentions(shape: Shape, rows: Sequence[int], contexts: Sequence[int], layers: int) -> Iterator[Case]:
    """Attention of one row and of the most, after some context in float16; each call is another layer's."""
    generator = np.random.default_rng(0)
    heads, kv_heads, dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
    for context in contexts:
        cache = cpu.KVCache(layers, kv_heads, dim, "f16")
        cache.load(np.zeros(cache.state_bytes(context), np.uint8), context)
        for m in sorted({min(rows), max(rows)}):
            segment = cpu.Rows([cpu.Segment(cache, m)])
            x = generator.standard_normal((m, heads + 2 * kv_heads, dim), np.float32)
            q, k, v = np.split(x, [heads, heads + kv_heads], axis=1)
            call = lambda i, q=q, k=k, v=v, segment=segment: cpu.attention(q, k, v, i % layers, segment)  # noqa: E731
            seen = m * context + m * (m + 1) // 2
            size = 2 * (context + m) * kv_heads * dim * 2
            yield Case(f"attention, {context}", m, call, size, 4 * seen * heads * dim)


def row_by_row(shape: Shape, rows: Sequence[int]) -> Iterator[Case]:
    """Norm, rotary embedding and activation: bytes in and out."""
    generator = np.random.default_rng(0)
    norm = np.ones(shape.hidden_size, np.float32)
    heads = shape.num_attention_heads + shape.num_key_value_heads
    for m in rows:
        x = generator.standard_normal((m, shape.hidden_size), np.float32)
        gates = generator.standard_normal((m, 2 * shape.intermediate_size), np.float32)
        turned = generator.standard_normal((m, heads, shape.head_dim), np.float32)
        angle = np.zeros((m, shape.head_dim // 2), np.float32)
        yield Case("rms_norm", m, lambda i, x=x: cpu.rms_norm(x, norm, 1e-6), 2 * x.nbytes)
        yield Case("swiglu", m, lambda i, gates=gates: cpu.swiglu(gates), gates.nbytes * 3 // 2)
        rope = lambda i, turned=turned, angle=angle: cpu.rope(turned, angle, angle)  # noqa: E731
        yield Case("rope", m, rope, 2 * turned.nbytes)


def measure(
    models: dict[str, Shape],
    isas: Sequence[str],
    limits: machine.Limits,
    rows: Sequence[int] = ROWS,
    contexts: Sequence[int] = CONTEXTS,
    working_set: int = _WORKING_SET,
    seconds: float = 0.1,
) -> Iterator[Result]:
    """All kernels of all models, each with all instruction sets in turn. Afterwards the default one is in use."""
    try:
        for model, shape in models.items():
            layers = shape.num_hidden_layers
            cases = (
                products(shape, rows, working_set),
                attentions(shape, rows, contexts, layers),
                row_by_row(shape, rows),
            )
            for case in (case for group in cases for case in group):
                for isa in isas:
                    if isa == "scalar" and case.rows > _SLOW_ROWS:
                        continue
                    cpu.use_isa(isa)
                    yield result(case, model, limits, seconds)
    finally:
        cpu.use_isa(None)


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw shares of the limit by number of rows: a panel for each model and kernel, a line for each instruction set.

    Raises:
        UsageError: matplotlib is not installed.
    """
    panels = list(dict.fromkeys((each.model, each.kernel) for each in results))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure = report.new_figure(3.2 * columns, 2.4 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, (model, kernel) in zip(grid, panels, strict=False):
        for isa in dict.fromkeys(each.isa for each in results):
            points = [(r.rows, r.fraction) for r in results if (r.model, r.kernel, r.isa) == (model, kernel, isa)]
            axes.plot(*zip(*points, strict=True), marker="o", label=isa) if points else None
        axes.set(title=f"{model}: {kernel}", xscale="log", xlabel="rows", ylabel="share of limit", ylim=(0, None))
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def show(each: Result) -> None:
    """Print one line."""
    print(
        f"{each.model:14} {each.isa:11} {each.kernel:16} {each.rows:4} rows {each.us:10.1f} us {each.gb_s:7.1f} GB/s "
        f"{each.tops:7.3f} TOPS {each.fraction:6.1%} of {each.limit}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["qwen2.5-0.5b", "qwen2.5-1.5b"])
    parser.add_argument("--isas", nargs="+", choices=cpu.isas(), default=cpu.isas(), help="Instruction sets.")
    parser.add_argument("--threads", type=int, help="Number of threads [default: all cores].")
    parser.add_argument("--quick", action="store_true", help="Only 1 and 256 rows, and 1,000 tokens of context.")
    parser.add_argument("--json", type=Path, help="Write the figures to this file.")
    parser.add_argument("--plot", type=Path, help="Plot them, as PNG or SVG (needs matplotlib).")
    arguments = parser.parse_args()
    cpu.set_threads(arguments.threads)
    try:
        limits = machine.measure(cpu.threads(), _BUILD)
        rates = ", ".join(f"{isa} {tops:.2f}" for isa, tops in limits.int8_tops_by_isa.items())
        print(f"{cpu.threads()} threads; memory is read at {limits.read_gb_s:.1f} GB/s; int8 TOPS: {rates}")
        results = []
        models = {name: SHAPES[name] for name in arguments.models}
        options = {"rows": (1, 256), "contexts": (1000,)} if arguments.quick else {}
        for each in measure(models, arguments.isas, limits, **options):
            results.append(each)
            show(each)
        if arguments.plot:
            plot(results, arguments.plot)
    except EdgeReasonError as error:
        parser.exit(1, f"{error}\n")
    if arguments.json:
        about = {"threads": cpu.threads(), **asdict(limits), "int8_tops": limits.int8_tops}
        report.write_json({"machine": about, "kernels": [asdict(each) for each in results]}, arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
