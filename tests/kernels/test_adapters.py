"""`linear` for rows with adapters of their own, against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu
from edgereason.kernels import packing

examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def factor(generator, kind, *shape):
    """A random factor of an adapter, and its values in float32."""
    values = generator.standard_normal(shape).astype(np.float32)
    if kind == "bf16":
        rounded = packing.BFloat16((values.view(np.uint32) >> 16).astype(np.uint16))
        return rounded, rounded.to_float32()
    typed = values.astype(np.float16 if kind == "f16" else np.float32)
    return typed, typed.astype(np.float32)


@st.composite
def products(draw):
    """Sizes of a weight, where its parts begin, the adapters' types and ranks, and runs of rows (count, adapter)."""
    cuts = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    return {
        "cuts": cuts,
        "columns": draw(st.integers(1, 120)),
        "kind": draw(st.sampled_from(["float", "packed", "ordered"])),
        "kinds": draw(st.lists(st.sampled_from(["f32", "f16", "bf16"]), min_size=len(cuts), max_size=len(cuts))),
        "ranks": draw(st.lists(st.integers(0, 19), min_size=len(cuts), max_size=len(cuts))),
        "runs": draw(st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 2)), max_size=4)),
        "seed": draw(st.integers(0, 1 << 30)),
    }


def random_case(cuts, columns, kind, kinds, ranks, runs, seed):
    """A weight with adapters 0 and 1 (none of index 2), rows of activations, and what the adapters add to each."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((sum(cuts), columns)).astype(np.float32)
    if kind != "float":
        weight = cpu.quantize(weight, 4)
    if kind == "ordered":  # inputs are stored in an order that adapters know nothing of
        weight = replace(weight, order=generator.permutation(columns).astype(np.int32))
    prepared = cpu.prepare(weight)
    counts = [count for count, _ in runs]
    x = generator.standard_normal((sum(counts), columns)).astype(np.float32)
    changes = {index: np.zeros((sum(cuts), columns)) for index in (-1, 0, 1, 2)}
    for index in (0, 1):
        parts = []
        for cut, first, kind, rank in zip(cuts, np.cumsum([0, *cuts]).tolist(), kinds, ranks, strict=False):
            if rank == 0:
                continue
            a, a_values = factor(generator, kind, rank, columns)
            b, b_values = factor(generator, kind, cut, rank)
            scale = float(generator.uniform(-2, 2))
            parts.append(cpu.LoraPart(a, b, scale, first))
            changes[index][first : first + cut] = scale * (b_values.astype(np.float64) @ a_values)
        if parts:
            cpu.attach(prepared, index, parts)
    of_rows = [index for count, index in runs for _ in range(count)]
    added = np.array([changes[index] @ row for index, row in zip(of_rows, x, strict=True)]).reshape(len(x), sum(cuts))
    return prepared, x, rows_of(runs), of_rows, added


def rows_of(runs):
    return cpu.Rows([cpu.Segment(cpu.KVCache(1, 1, 1, "f16"), count, index, outputs=0) for count, index in runs])


@given(case=products())
@examples
def test_each_row_gets_what_its_adapter_adds(isa, case):
    weight, x, rows, of_rows, added = random_case(**case)
    alone = cpu.linear(x, weight)
    found = cpu.linear(x, weight, rows)
    np.testing.assert_allclose(found - alone, added, rtol=1e-4, atol=1e-3)
    without = [row for row, index in enumerate(of_rows) if index in (-1, 2)]
    np.testing.assert_array_equal(found[without], alone[without])


@given(case=products())
@examples
def test_every_row_with_an_adapter_is_computed_as_if_alone(isa, rows_as_if_alone, case):
    weight, x, rows, of_rows, _ = random_case(**case)
    together = cpu.linear(x, weight, rows, add=None)
    for i, index in enumerate(of_rows):
        np.testing.assert_array_equal(together[i], cpu.linear(x[i : i + 1], weight, rows_of([(1, index)]))[0])


def test_an_adapter_can_be_replaced_and_taken_away():
    weight = cpu.prepare(np.zeros((5, 4), np.float32))
    x, rows = np.ones((1, 4), np.float32), rows_of([(1, 0)])
    a, b = np.ones((2, 4), np.float32), np.ones((5, 2), np.float32)
    cpu.attach(weight, 0, [cpu.LoraPart(a, b, 1.0)])
    np.testing.assert_array_equal(cpu.linear(x, weight, rows), np.full((1, 5), 8))
    cpu.attach(weight, 0, [cpu.LoraPart(a, b, 0.5)])
    np.testing.assert_array_equal(cpu.linear(x, weight, rows), np.full((1, 5), 4))
    cpu.detach(weight, 0)
    cpu.detach(weight, 0)
    np.testing.assert_array_equal(cpu.linear(x, weight, rows), np.zeros((1, 5)))


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        (cpu.LoraPart(np.ones((2, 5), np.float32), np.ones((5, 2), np.float32), 1.0), ValueError, "down has to be"),
        (cpu.LoraPart(np.ones((2, 4), np.float32), np.ones((5, 3), np.float32), 1.0), ValueError, "does not fit"),
        (cpu.LoraPart(np.ones((2, 4), np.float32), np.ones((5, 2), np.float32), 1.0, 1), ValueError, "does not fit"),
        (cpu.LoraPart(np.ones((2, 4), np.float32), np.ones((5, 2), np.float32), 1.0, -1), ValueError, "does not fit"),
        (cpu.LoraPart(np.ones((2, 4)), np.ones((5, 2), np.float32), 1.0), TypeError, "down has to be float32, float16"),
        (cpu.LoraPart(np.ones((2, 4), np.float32), np.ones((5, 2)), 1.0), TypeError, "up has to be float32, float16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, error, message):
    with pytest.raises(error, match=message):
        cpu.attach(cpu.prepare(np.zeros((5, 4), np.float32)), 0, [part])


def test_rows_have_to_be_as_many_as_activations():
    weight = cpu.prepare(np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="rows has 2 rows, x 1"):
        cpu.linear(np.ones((1, 4), np.float32), weight, rows_of([(2, -1)]))
