"""`linear` and `embedding`: numpy is the witness of the scalar reference, which is the witness of the others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu
from edgereason.kernels import packing

# Function-scoped fixtures are fine: choosing an instruction set once for all examples is what is meant.
examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
products = st.fixed_dictionaries(
    {
        "m": st.one_of(st.integers(0, 9), st.sampled_from([12, 13, 32, 33, 70])),
        "rows": st.integers(1, 70),
        "columns": st.integers(1, 300),
        "bits": st.sampled_from([4, 8]),
        "group": st.sampled_from([32, 64, 128, None]),
        "symmetric": st.booleans(),
        "with_add": st.booleans(),
        "seed": st.integers(0, 1 << 30),
    }
)


def random_product(m, rows, columns, bits, group, symmetric, with_add, seed):
    """A random packed weight (every stored value, any zero point), activations and an addend."""
    generator = np.random.default_rng(seed)
    size = group or -(-columns // 32) * 32
    padded = -(-columns // size) * size
    q = generator.integers(0, 1 << bits, (rows, padded), np.uint8)
    zeros = None if symmetric else generator.integers(0, 1 << bits, (rows, padded // size), np.uint8)
    scales = (generator.standard_normal((rows, padded // size)) * 0.1).astype(np.float16)
    weight = packing.pack(q, scales, zeros, bits, columns)
    x = (generator.standard_normal((m, columns)) * generator.choice([1e-3, 1, 50], (m, 1))).astype(np.float32)
    x[generator.random(x.shape) < 0.1] = 0
    add = generator.standard_normal((m, rows)).astype(np.float32) if with_add else None
    return weight, x, add


def by_groups(x, size):
    """x `[T, K]` as `[T, K / size, size]`, padded with zeros."""
    groups = -(-x.shape[1] // size)
    return np.pad(x, ((0, 0), (0, size * groups - x.shape[1]))).reshape(len(x), groups, size)


def rounded_activations(x, size=32):
    """x as the kernels round it: to 127ths of the largest value of each row and group of 32, or of another size."""
    padded = by_groups(x, size)
    highest = np.abs(padded).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), highest, out=np.zeros_like(highest), where=highest > 0)
    q = np.rint(padded * inverse).astype(np.float64)
    rounded = q * (highest / np.float32(127)).astype(np.float64)
    return rounded.reshape(len(x), padded.shape[1] * size)[:, : x.shape[1]]


def weight_in_spans(weight):
    """The 4-bit weight as products of many rows round it: to 120ths of what each row's span of 128 inputs can hold."""
    q, scales, zeros = packing.unpack(weight)
    per_group = q.shape[1] // scales.shape[1]
    scales = np.repeat(scales.astype(np.float32), per_group, axis=1)
    zeros = np.full(q.shape, 8) if zeros is None else np.repeat(zeros.astype(int), per_group, axis=1)
    limits = by_groups(np.abs(scales) * np.maximum(zeros, 15 - zeros).astype(np.float32), 128).max(axis=2)
    limit = np.repeat(limits, 128, axis=1)[:, : q.shape[1]]
    inverse = np.divide(np.float32(120 * 256), limit, out=np.zeros_like(limit), where=limit > 0)
    w8 = np.floor((q - zeros) * np.rint(scales * inverse).astype(np.float64) / 256 + 0.5)
    assert np.abs(w8).max() <= 120
    return (w8 * (limit.astype(np.float64) / 120))[:, : weight.columns]


def operands(weight, x):
    """The rounded activations and weights whose product is what the kernels compute, as float64."""
    if cpu.spans() and len(x) > 32 and weight.bits == 4:
        return rounded_activations(x, 128), weight_in_spans(weight)
    return rounded_activations(x), weight.dequantize().astype(np.float64)


@pytest.fixture(params=["spans", "groups"])
def arithmetic(request, isa):
    """Both arithmetics of products of many rows, where an instruction set has two."""
    cpu.use_spans(request.param == "spans")
    if request.param == "spans" and not cpu.spans():
        pytest.skip(f"{isa} computes many rows as few")
    yield
    cpu.use_spans(True)


@given(product=products)
@examples
def test_packed_linear_equals_the_integer_product(arithmetic, product):
    weight, x, add = random_product(**product)
    rounded, w = operands(weight, x)
    expected = rounded @ w.T + (0 if add is None else add)
    found = cpu.linear(x, cpu.prepare(weight), add=add)
    assert found.shape == (len(x), weight.rows)
    # The products are exact; what differs is the order in which float32 sums them.
    size = np.abs(rounded) @ np.abs(w).T + 1e-6
    assert np.all(np.abs(found - expected) <= 4e-6 * size + 1e-6 * np.abs(expected))


@given(product=products)
@examples
def test_packed_linear_is_near_the_product_without_rounding(arithmetic, product):
    weight, x, add = random_product(**product)
    w = weight.dequantize()
    expected = x @ w.T + (0 if add is None else add)
    # Each activation is off by half a 127th of its group's largest at most, each weight by half of a span's step.
    spans = cpu.spans() and len(x) > 32 and weight.bits == 4
    size = 128 if spans else 32
    largest = np.repeat(np.abs(by_groups(x, size)).max(axis=2), size, axis=1)[:, : x.shape[1]]
    scales = np.repeat(np.abs(packing.unpack(weight)[1].astype(np.float32)), weight.group_size, axis=1)
    steps = np.repeat(by_groups(scales, 128).max(axis=2) * 15 / 120, 128, axis=1)[:, : x.shape[1]] * spans
    bound = largest @ np.abs(w).T / 250 + (np.abs(x) + largest / 250) @ steps.T * 0.55
    bound += 1e-4 * (np.abs(x) @ np.abs(w).T) + 1e-5
    assert np.all(np.abs(cpu.linear(x, cpu.prepare(weight), add=add) - expected) <= bound)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("outliers", "growth"), [(False, 1.01), (True, 1.05)])
def test_spans_add_little_to_what_rounding_to_4_bits_loses(isa, symmetric, outliers, growth):
    generator = np.random.default_rng(0)
    w, x = generator.standard_normal((128, 896)), generator.standard_normal((64, 896))
    if outliers:
        x *= np.exp(generator.standard_normal(896) / 2)
        x[:, generator.integers(0, 896, 4)] *= 30
    weight = cpu.prepare(cpu.quantize(w.astype(np.float32), 4, 32, symmetric))
    rows = x.astype(np.float32)
    few = np.concatenate([cpu.linear(rows[i : i + 8], weight) for i in range(0, 64, 8)])
    assert np.linalg.norm(cpu.linear(rows, weight) - x @ w.T) < growth * np.linalg.norm(few - x @ w.T)


@given(product=products)
@examples
def test_every_row_is_computed_as_if_alone(arithmetic, product):
    """Or, where it is one of many, as if beside any others."""
    weight, x, add = random_product(**product)
    prepared = cpu.prepare(weight)
    together = cpu.linear(x, prepared, add=add)
    if cpu.spans() and len(x) > 32:
        order = np.random.default_rng(product["seed"]).permutation(len(x))[:33]
        beside_others = cpu.linear(x[order], prepared, add=None if add is None else add[order])
        np.testing.assert_array_equal(beside_others, together[order])
        return
    for i in range(len(x)):
        alone = cpu.linear(x[i : i + 1], prepared, add=None if add is None else add[i : i + 1])
        np.testing.assert_array_equal(together[i], alone[0])


@given(product=products)
@examples
def test_packed_linear_equals_the_scalar_reference(isa, arithmetic, product):
    weight, x, add = random_product(**product)
    found = cpu.linear(x, cpu.prepare(weight), add=add)
    rounded, w = operands(weight, x)
    cpu.use_isa("scalar")
    try:
        expected = cpu.linear(x, cpu.prepare(weight), add=add)
    finally:
        cpu.use_isa(isa)
    size = np.abs(rounded) @ np.abs(w).T + 1e-6
    assert np.all(np.abs(found - expected) <= 4e-6 * size + 1e-6)


def float_weight(kind, generator, rows, columns):
    """A random weight in a float type, and its values in float32."""
    values = generator.standard_normal((rows, columns)).astype(np.float32)
    if kind == "f32":
        return values, values
    if kind == "f16":
        half = values.astype(np.float16)
        half.flat[0] = np.float16(3e-6)  # subnormal
        return half, half.astype(np.float32)
    weight = packing.BFloat16((values.view(np.uint32) >> 16).astype(np.uint16))
    return weight, weight.to_float32()


@given(
    kind=st.sampled_from(["f32", "f16", "bf16"]),
    m=st.integers(0, 9),
    rows=st.integers(1, 20),
    columns=st.integers(1, 150),
    seed=st.integers(0, 1 << 30),
)
@examples
def test_float_linear_equals_numpy(isa, kind, m, rows, columns, seed):
    generator = np.random.default_rng(seed)
    weight, values = float_weight(kind, generator, rows, columns)
    x = generator.standard_normal((m, columns)).astype(np.float32)
    expected = x.astype(np.float64) @ values.astype(np.float64).T
    np.testing.assert_allclose(cpu.linear(x, cpu.prepare(weight)), expected, rtol=1e-5, atol=2e-5)


@given(
    kind=st.sampled_from(["f32", "f16", "bf16"]),
    m=st.integers(2, 9),
    rows=st.integers(1, 20),
    columns=st.integers(1, 150),
    seed=st.integers(0, 1 << 30),
)
@examples
def test_every_row_of_a_float_product_is_computed_as_if_alone(isa, kind, m, rows, columns, seed):
    generator = np.random.default_rng(seed)
    weight = cpu.prepare(float_weight(kind, generator, rows, columns)[0])
    x = generator.standard_normal((m, columns)).astype(np.float32)
    together = cpu.linear(x, weight)
    for i in range(m):
        np.testing.assert_array_equal(together[i], cpu.linear(x[i : i + 1], weight)[0])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_last_inputs_are_multiplied_and_then_added(isa, kind, m):
    """Compilers fuse the two in some copies of a loop and not in others: then a row's result depends on its neighbours.

    Three inputs are fewer than any register holds, so that nothing but this loop computes them.
    """
    generator = np.random.default_rng(m)
    weight, values = float_weight(kind, generator, 50, 3)
    x = generator.standard_normal((m, 3)).astype(np.float32)
    terms = x[:, None, :] * values
    np.testing.assert_array_equal(cpu.linear(x, cpu.prepare(weight)), terms[..., 0] + terms[..., 1] + terms[..., 2])


@given(product=products)
@examples
def test_embedding_of_a_packed_table_is_its_row(isa, product):
    weight, _, _ = random_product(**product)
    ids = np.random.default_rng(product["seed"]).integers(0, weight.rows, 7)
    np.testing.assert_array_equal(cpu.embedding(ids, cpu.prepare(weight)), weight.dequantize()[ids])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_embedding_of_a_float_table_is_its_row(isa, kind):
    weight, values = float_weight(kind, np.random.default_rng(0), 50, 45)
    ids = np.array([49, 0, 0, 7])
    np.testing.assert_array_equal(cpu.embedding(ids, cpu.prepare(weight)), values[ids])
    assert cpu.embedding(np.empty(0, np.int64), cpu.prepare(weight)).shape == (0, 45)


def test_all_float16_values_convert_exactly(isa):
    bits = np.arange(1 << 16, dtype=np.uint16)
    table = bits.view(np.float16).reshape(-1, 1)
    found = cpu.embedding(np.arange(1 << 16), cpu.prepare(table))[:, 0]
    np.testing.assert_array_equal(found, table[:, 0].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros((2, 33), np.float32)}, ValueError, r"x has to be \[2, 32\], not \[2, 33\]"),
        ({"x": np.zeros((2, 32))}, TypeError, "x has to be float32"),
        ({"x": np.zeros((32, 2), np.float32).T}, ValueError, "x has to be contiguous"),
        ({"x": np.zeros((4, 32), np.float32)[::2]}, ValueError, "x has to be contiguous"),
        ({"x": np.zeros(32, np.float32)}, ValueError, "x has to have 2 dimensions, not 1"),
        ({"x": [[0.0]]}, TypeError, "x has to be an array"),
        ({"add": np.zeros((2, 15), np.float32)}, ValueError, "add has to be"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, error, message):
    weight = cpu.prepare(cpu.quantize(np.ones((16, 32), np.float32), 4))
    with pytest.raises(error, match=message):
        cpu.linear(**{"x": np.zeros((2, 32), np.float32), "weight": weight, "add": None, **change})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 8}, "qweight"),
        ({"bits": 5}, "bits"),
        ({"rows": 17}, "qweight"),
        ({"columns": 65}, "columns"),
        ({"columns": 32}, "columns"),
        ({"scales": np.ones((1, 3, 16), np.float16)}, "scales"),
        ({"zeros": np.ones((1, 1, 16), np.uint8)}, "zeros"),
    ],
)
def test_packed_arrays_that_do_not_fit_are_refused(changes, message):
    from dataclasses import replace

    good = cpu.quantize(np.ones((16, 64), np.float32), 4)
    with pytest.raises(ValueError, match=message):
        cpu.prepare(replace(good, **changes))


def test_ids_beyond_the_table_are_refused():
    table = cpu.prepare(np.ones((4, 8), np.float32))
    for bad in (-1, 4, 1 << 40):
        with pytest.raises(ValueError, match="ids has"):
            cpu.embedding(np.array([0, bad]), table)
