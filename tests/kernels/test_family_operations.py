"""What only some families need, against numpy in float64: GeGLU, caps, norms of heads, windows, biases, act-order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu
from edgereason.kernels import packing

examples = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(generator, *shape):
    return generator.standard_normal(shape).astype(np.float32)


@given(rows=st.integers(0, 20), width=st.integers(1, 100), seed=st.integers(0, 1 << 30))
@examples
def test_geglu_equals_numpy(isa, rows, width, seed):
    x = normal(np.random.default_rng(seed), rows, 2 * width) * 5
    gate, up = x[:, :width].astype(np.float64), x[:, width:]
    gelu = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    # Where tanh is nearly -1, the sum in the formula cancels; our form of it does not.
    np.testing.assert_allclose(cpu.geglu(x), gelu * up, rtol=5e-6, atol=1e-12)


def test_geglu_of_large_values_stays_finite(isa):
    gate_up = np.array([[-1e6, -100, 100, 1e6, 1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(cpu.geglu(gate_up), [[0, 0, 100, 1e6]], atol=1e-30)


@given(rows=st.integers(0, 5), width=st.integers(1, 300), cap=st.floats(0.5, 60), seed=st.integers(0, 1 << 30))
@examples
def test_softcap_equals_numpy(isa, rows, width, cap, seed):
    x = normal(np.random.default_rng(seed), rows, width) * 40
    expected = cap * np.tanh(x.astype(np.float64) / cap)
    cpu.softcap(x, cap)
    np.testing.assert_allclose(x, expected, rtol=2e-6, atol=4e-7 * cap)


@given(rows=st.integers(0, 9), heads=st.integers(1, 5), dim=st.integers(1, 70), seed=st.integers(0, 1 << 30))
@examples
def test_head_norm_equals_numpy_and_leaves_the_rest(isa, rows, heads, dim, seed):
    generator = np.random.default_rng(seed)
    fused, weight = normal(generator, rows, heads + 2, dim), normal(generator, dim)
    before = fused.copy()
    cpu.head_norm(fused[:, 1 : heads + 1], weight, 1e-6)
    exact = before[:, 1 : heads + 1].astype(np.float64)
    expected = exact / np.sqrt((exact**2).mean(axis=2, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(fused[:, 1 : heads + 1], expected, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(fused[:, [0, -1]], before[:, [0, -1]])


@given(
    rows=st.integers(0, 6),
    heads=st.integers(1, 4),
    half=st.integers(1, 24),
    still=st.integers(0, 30),
    seed=st.integers(0, 1 << 30),
)
@examples
def test_rope_of_a_part_leaves_the_rest_of_the_head(isa, rows, heads, half, still, seed):
    generator = np.random.default_rng(seed)
    x = normal(generator, rows, heads, 2 * half + still)
    before, angle = x.copy(), generator.uniform(-9, 9, (rows, half))
    cpu.rope(x, np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
    turned = (before[..., :half] + 1j * before[..., half : 2 * half]) * np.exp(1j * angle)[:, None]
    np.testing.assert_allclose(x[..., :half], turned.real, atol=2e-6)
    np.testing.assert_allclose(x[..., half : 2 * half], turned.imag, atol=2e-6)
    np.testing.assert_array_equal(x[..., 2 * half :], before[..., 2 * half :])


@given(
    counts=st.lists(st.integers(1, 150), min_size=1, max_size=3),
    group=st.integers(1, 5),
    dim=st.integers(1, 40),
    window=st.sampled_from([None, 1, 2, 15, 63, 64, 65, 100, 1000]),
    cap=st.sampled_from([None, 1.5, 30.0]),
    scale=st.sampled_from([None, 0.7]),
    seed=st.integers(0, 1 << 30),
)
@examples
def test_attention_with_a_window_and_a_cap_equals_numpy(isa, counts, group, dim, window, cap, scale, seed):
    generator, total = np.random.default_rng(seed), sum(counts)
    q, k, v = (normal(generator, total, heads, dim) for heads in (2 * group, 2, 2))
    cache, found = cpu.KVCache(1, 2, dim, "f32"), []
    for part in np.split(np.arange(total), np.cumsum(counts)[:-1]):  # a prefill, and pieces that continue it
        rows = cpu.Rows([cpu.Segment(cache, len(part), outputs=0)])
        found.append(cpu.attention(q[part], k[part], v[part], 0, rows, scale=scale, window=window, softcap=cap))
        rows.commit()
    keys, values = (np.repeat(array.astype(np.float64), group, axis=1) for array in (k, v))
    scores = np.einsum("thd,shd->hts", q.astype(np.float64), keys) * (scale or dim**-0.5)
    if cap:
        scores = cap * np.tanh(scores / cap)
    behind = np.arange(total)[:, None] - np.arange(total)
    scores[:, (behind < 0) | (behind >= (window or total))] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    expected = np.einsum("hts,shd->thd", weights, values).reshape(total, -1)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=2e-5, atol=3e-5)


@pytest.mark.parametrize("kind", ["f32", "f16", "u4", "s8"])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_bias_is_added_to_every_row(isa, kind, rows):
    generator = np.random.default_rng(0)
    weight, bias, x = normal(generator, 37, 96), normal(generator, 37), normal(generator, rows, 96)
    stored = {"u4": cpu.quantize(weight, 4), "s8": cpu.quantize(weight, 8), "f16": weight.astype(np.float16)}
    plain, biased = cpu.prepare(stored.get(kind, weight)), cpu.prepare(stored.get(kind, weight), bias)
    add = normal(generator, rows, 50)[:, 3:40]
    np.testing.assert_allclose(cpu.linear(x, biased), cpu.linear(x, plain) + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cpu.linear(x, biased, add=add), cpu.linear(x, plain) + bias + add, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 5, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_inputs_in_another_order_are_gathered(isa, bits, rows):
    generator = np.random.default_rng(1)
    weight, x = normal(generator, 40, 100), normal(generator, rows, 100)
    order = generator.permutation(100).astype(np.int32)
    stored = cpu.quantize(weight[:, order], bits)
    ordered = cpu.prepare(replace(stored, order=order))
    expected = cpu.linear(np.ascontiguousarray(x[:, order]), cpu.prepare(stored))
    np.testing.assert_array_equal(cpu.linear(x, ordered), expected)
    dequantized = np.empty((40, 100), np.float32)
    dequantized[:, order] = stored.dequantize()
    np.testing.assert_array_equal(replace(stored, order=order).dequantize(), dequantized)
    np.testing.assert_array_equal(cpu.embedding(np.arange(40), ordered), dequantized)


def test_several_weights_are_one_of_all_their_rows():
    generator = np.random.default_rng(2)
    x, bias, add = normal(generator, 5, 64), normal(generator, 48), normal(generator, 5, 48)
    parts = [cpu.quantize(normal(generator, rows, 64), 4) for rows in (32, 16)]
    together = cpu.prepare(packing.concatenate(parts), bias)
    np.testing.assert_array_equal(
        cpu.linear(x, cpu.prepare(tuple(parts), bias), add=add), cpu.linear(x, together) + add
    )


def test_orders_and_biases_that_do_not_fit_are_refused():
    stored = cpu.quantize(np.ones((16, 32), np.float32), 4)
    with pytest.raises(ValueError, match="order has 32, no column"):
        cpu.prepare(replace(stored, order=np.arange(1, 33, dtype=np.int32)))
    with pytest.raises(ValueError, match="order has to be"):
        cpu.prepare(replace(stored, order=np.arange(31, dtype=np.int32)))
    with pytest.raises(ValueError, match="bias has to be"):
        cpu.prepare(stored, np.ones(15, np.float32))
    with pytest.raises(ValueError, match="cos rotates 34 elements"):
        cpu.rope(*(np.ones(shape, np.float32) for shape in ((1, 1, 32), (1, 17), (1, 17))))
    with pytest.raises(ValueError, match="cap has to be positive"):
        cpu.softcap(np.ones((1, 1), np.float32), 0)
