"""The kernels' benchmark on tiny shapes: every case is there, and its share follows from the limits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint import SHAPES
from machine import Limits

import edgereason.kernels.cpu as cpu

# By its path: `import kernels` would find the package's sources.
_PATH = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
_SPEC: Any = importlib.util.spec_from_file_location("kernel_benchmark", _PATH)
kernels = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = kernels
_SPEC.loader.exec_module(kernels)

LIMITS = Limits(30.0, 20.0, {"avx512vnni": 2.0, "avx2": 0.5})


@pytest.fixture(scope="module")
def results() -> list[Any]:
    tiny = {"tiny": SHAPES["tiny"]}
    return list(kernels.measure(tiny, cpu.isas(), LIMITS, (1, 8), (70,), working_set=1 << 18, seconds=0))


def test_every_kernel_is_measured_with_every_instruction_set(results: list[Any]) -> None:
    found = {(each.isa, each.kernel) for each in results if each.rows == 1}
    names = {*("qkv 4 bits", "o 4 bits", "gate_up 4 bits", "down 4 bits", "head 8 bits")}
    names |= {"attention, 70", "rms_norm", "swiglu", "rope"}
    assert found == {(isa, name) for isa in cpu.isas() for name in names}
    assert {each.rows for each in results if each.isa != "scalar"} == {1, 8}
    assert cpu.isa() == cpu.isas()[0]


def test_the_share_is_of_the_limit_that_takes_longer(results: list[Any]) -> None:
    for each in results:
        reading = each.gb_s / LIMITS.read_gb_s
        tops = LIMITS.int8_tops_by_isa.get(each.isa)
        multiplying = each.tops / tops if tops else 0
        assert each.fraction == pytest.approx(max(reading, multiplying))
        assert each.limit == ("int8" if multiplying > reading else "read")


def test_bytes_and_operations_are_those_of_the_arrays() -> None:
    shape = SHAPES["tiny"]
    cases = {case.kernel: case for case in kernels.products(shape, (3,), working_set=0)}
    assert cases["down 4 bits"].operations == 2 * 3 * shape.hidden_size * shape.intermediate_size
    assert cases["down 4 bits"].size == shape.hidden_size * shape.intermediate_size * (4 + 16 / 32) / 8
    (attention,) = kernels.attentions(shape, (3,), (10,), layers=1)
    seen = np.tri(3, 13, 10).sum()  # rows behind ten tokens, each seeing those up to itself
    assert attention.operations == 4 * seen * shape.num_attention_heads * shape.head_dim
    assert np.shape(attention.call(0)) == (3, shape.num_attention_heads * shape.head_dim)


def test_the_plot_is_a_png(results: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    kernels.plot(results, tmp_path / "kernels.png")
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
