"""Attention, rotary embedding, norm and activation against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu

examples = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(generator, *shape):
    return generator.standard_normal(shape).astype(np.float32)


@given(rows=st.integers(0, 40), width=st.integers(1, 200), seed=st.integers(0, 1 << 30))
@examples
def test_rms_norm_equals_numpy(isa, rows, width, seed):
    generator = np.random.default_rng(seed)
    x, weight = normal(generator, rows, width), normal(generator, width)
    exact = x.astype(np.float64)
    expected = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(cpu.rms_norm(x, weight, 1e-5), expected, rtol=2e-6, atol=1e-6)


@given(rows=st.integers(0, 20), width=st.integers(1, 100), seed=st.integers(0, 1 << 30))
@examples
def test_swiglu_equals_numpy(isa, rows, width, seed):
    x = normal(np.random.default_rng(seed), rows, 2 * width) * 30  # far beyond where exp overflows float32
    gate, up = x[:, :width].astype(np.float64), x[:, width:]
    np.testing.assert_allclose(cpu.swiglu(x), gate / (1 + np.exp(-gate)) * up, rtol=2e-6, atol=1e-30)


@given(rows=st.integers(0, 9), heads=st.integers(1, 5), half=st.integers(1, 40), seed=st.integers(0, 1 << 30))
@examples
def test_rope_rotates_halves(isa, rows, heads, half, seed):
    generator = np.random.default_rng(seed)
    # A slice of a fused product: rows lie apart, and what is beside it must not change.
    fused = normal(generator, rows, heads + 2, 2 * half)
    before = fused.copy()
    angle = generator.uniform(-9, 9, (rows, half))
    cpu.rope(fused[:, :heads], np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32))
    pairs = before[:, :heads, :half] + 1j * before[:, :heads, half:]
    turned = pairs * np.exp(1j * angle)[:, None]
    np.testing.assert_allclose(fused[:, :heads], np.concatenate([turned.real, turned.imag], axis=2), atol=2e-6)
    np.testing.assert_array_equal(fused[:, heads:], before[:, heads:])


def attend(q, k, v, *caches, layer=0, counts=None):
    """Attention of one pass; the rows are those of the caches, one after the other."""
    counts = counts or [len(q)]
    rows = cpu.Rows([cpu.Segment(cache, count, outputs=0) for cache, count in zip(caches, counts, strict=True)])
    found = cpu.attention(q, k, v, layer, rows)
    rows.commit()
    return found


def stored(array, kind):
    """Keys or values `[T, heads, d]` as a cache of this type keeps them."""
    if kind != "int8":
        return array.astype({"f16": np.float16, "f32": np.float32}[kind])
    highest = np.abs(array).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), highest, out=np.zeros_like(highest), where=highest > 0)
    return np.rint(array * inverse) * (highest / np.float32(127))


@given(
    passes=st.lists(st.lists(st.integers(0, 70), min_size=3, max_size=3), min_size=1, max_size=4),
    kinds=st.lists(st.sampled_from(["f16", "f32", "int8"]), min_size=3, max_size=3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    dim=st.integers(1, 70),
    seed=st.integers(0, 1 << 30),
)
@examples
def test_attention_of_several_sequences_equals_numpy_over_several_passes(
    isa, passes, kinds, kv_heads, group, dim, seed
):
    generator = np.random.default_rng(seed)
    heads = kv_heads * group
    caches = [cpu.KVCache(2, kv_heads, dim, kind) for kind in kinds]
    inputs, found = [[], [], []], [[], [], []]
    for counts in passes:
        fused = normal(generator, sum(counts), heads + 2 * kv_heads, dim) * 2
        q, k, v = fused[:, :heads], fused[:, heads : heads + kv_heads], fused[:, heads + kv_heads :]
        y = attend(q, k, v, *caches, layer=1, counts=counts)
        ends = np.cumsum(counts)
        for i, part in enumerate(np.split(np.arange(sum(counts)), ends[:-1])):
            inputs[i].append(fused[part])
            found[i].append(y[part])
    for i, kind in enumerate(kinds):
        fused = np.concatenate(inputs[i])
        k, v = fused[:, heads : heads + kv_heads], fused[:, heads + kv_heads :]
        expected = causal_attention(fused[:, :heads], stored(k, kind), stored(v, kind))
        np.testing.assert_allclose(np.concatenate(found[i]), expected, rtol=2e-5, atol=2e-5)
        assert caches[i].length == len(fused)


def causal_attention(q, k, v):
    """float64 `[T, heads * d]` of q `[T, heads, d]` over k and v `[T, kv_heads, d]`."""
    rows, heads, dim = q.shape
    k, v = (np.repeat(array.astype(np.float64), heads // array.shape[1], axis=1) for array in (k, v))
    scores = np.einsum("thd,shd->hts", q.astype(np.float64), k) / np.sqrt(dim)
    scores[:, ~np.tri(rows, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True, initial=-1e300))
    weights /= weights.sum(axis=2, keepdims=True)
    return np.einsum("hts,shd->thd", weights, v).reshape(rows, heads * dim)


def test_attention_of_one_token_over_a_long_cache(isa):
    generator = np.random.default_rng(0)
    q, k, v = normal(generator, 700, 4, 64), normal(generator, 700, 2, 64), normal(generator, 700, 2, 64)
    cache = cpu.KVCache(1, 2, 64, "f32")
    attend(q[:699], k[:699], v[:699], cache)
    found = attend(q[699:], k[699:], v[699:], cache)
    np.testing.assert_allclose(found[0], causal_attention(q, k, v)[699], rtol=1e-5, atol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 1500), min_size=1, max_size=4),
    counts=st.lists(st.sampled_from([1, 1, 2, 30]), min_size=4, max_size=4),
    kind=st.sampled_from(["f16", "f32", "int8"]),
    group=st.sampled_from([1, 3, 7, 8, 13, 100]),
    window=st.sampled_from([None, None, 40, 700]),
    threads=st.integers(1, 4),
    seed=st.integers(0, 1 << 30),
)
@settings(examples, max_examples=12)
def test_few_rows_over_long_caches_equal_numpy(isa, lengths, counts, kind, group, window, threads, seed):
    generator = np.random.default_rng(seed)
    caches = [cpu.KVCache(1, 2, 16, kind) for _ in lengths]
    histories = [
        normal(generator, length + count, 2, 2, 16) * 2 for length, count in zip(lengths, counts, strict=False)
    ]
    for cache, history, length in zip(caches, histories, lengths, strict=True):
        attend(history[:length, 0], *history[:length].transpose(1, 0, 2, 3), cache)
    counts = counts[: len(lengths)]
    k, v = np.concatenate([history[length:] for history, length in zip(histories, lengths, strict=True)]).transpose(
        1, 0, 2, 3
    )
    q = normal(generator, len(k), 2 * group, 16)
    rows = cpu.Rows([cpu.Segment(cache, count) for cache, count in zip(caches, counts, strict=True)])
    cpu.set_threads(threads)
    found = cpu.attention(q, np.ascontiguousarray(k), np.ascontiguousarray(v), 0, rows, window=window)
    cpu.set_threads(None)
    row = 0
    for history, length, count in zip(histories, lengths, counts, strict=True):
        keys, values = (stored(history[:, i], kind) for i in (0, 1))
        for end in range(length + 1, length + count + 1):
            first = max(0, end - window) if window else 0
            expected = one_row(q[row], keys[first:end], values[first:end])
            np.testing.assert_allclose(found[row], expected, rtol=2e-5, atol=2e-5)
            row += 1


@pytest.mark.parametrize("kind", ["f16", "f32", "int8"])
def test_a_row_s_result_depends_neither_on_the_rows_beside_it_nor_on_threads(isa, kind):
    generator = np.random.default_rng(0)
    fused = normal(generator, 1300, 7 + 2, 20)
    q, k, v = fused[:, :7], fused[:, 7:8], fused[:, 8:]
    together, alone = cpu.KVCache(1, 1, 20, kind), cpu.KVCache(1, 1, 20, kind)
    found = attend(q, k, v, together)
    attend(q[:1200], k[:1200], v[:1200], alone)
    for threads in (1, 4):
        cpu.set_threads(threads)
        alone.truncate(1200)
        for row in range(1200, 1210):
            one = slice(row, row + 1)
            np.testing.assert_array_equal(attend(q[one], k[one], v[one], alone)[0], found[row])
    cpu.set_threads(None)


def one_row(q, k, v):
    """float64 `[heads * d]` of q `[heads, d]` over k and v `[S, kv_heads, d]`."""
    grouped = q.astype(np.float64).reshape(k.shape[1], -1, q.shape[1])
    scores = np.einsum("hgd,shd->hgs", grouped, k.astype(np.float64)) / np.sqrt(q.shape[1])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    return np.einsum("hgs,shd->hgd", weights, v.astype(np.float64)).ravel()


def test_scores_of_any_size_stay_finite(isa):
    q = np.full((3, 1, 8), 1e4, np.float32)
    k = np.linspace(-1e4, 1e4, 24, dtype=np.float32).reshape(3, 1, 8)
    found = attend(q, k, np.ones((3, 1, 8), np.float32), cpu.KVCache(1, 1, 8, "f32"))
    np.testing.assert_allclose(found, 1, rtol=1e-6)


def test_every_float_rounds_to_the_float16_that_numpy_rounds_it_to(isa):
    small = np.float16([0, 6e-8, 6.1e-5, 1, 65504])  # with the least subnormal and the least normal
    edges = np.concatenate([small, np.arange(1, 1 << 15, 37).astype(np.uint16).view(np.float16)])
    edges = edges[np.isfinite(edges)].astype(np.float32)
    between = [np.nextafter(edges, np.float32(1e9)), edges * 1.0003, edges * 1.00049, -edges * 1.0002]
    values = np.concatenate([edges, *between])
    values = values[np.abs(values) < 65519].astype(np.float32)
    padded = np.resize(values, (len(values) // 40 + 1, 1, 40))
    cache = cpu.KVCache(1, 1, 40, "f16")
    attend(np.zeros_like(padded), padded, padded, cache)
    keys_and_values = state_of(cache).view(np.float16)
    np.testing.assert_array_equal(keys_and_values, np.tile(padded.astype(np.float16).ravel(), 2))


def state_of(cache):
    state = np.empty(cache.state_bytes(cache.length), np.uint8)
    cache.save(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((1, 3, 8), np.float32)}, "heads"),
        ({"k": np.zeros((1, 2, 9), np.float32)}, "k has to be"),
        ({"v": np.zeros((2, 2, 8), np.float32)}, "v has to be"),
        ({"q": np.zeros((1, 4, 8))}, "q has to be float32"),
        ({"rows": (cpu.KVCache(1, 3, 8, "f16"), 1)}, "k has 2 heads of 8, a cache 3 of 8"),
        ({"rows": (cpu.KVCache(1, 2, 8, "f16"), 2)}, "rows has 2 rows, q 1"),
        ({"layer": 1}, "layer is 1, a cache has 1"),
        ({"layer": -1}, "layer is -1"),
    ],
)
def test_attention_names_arguments_that_do_not_fit(change, message):
    good = {
        "q": np.zeros((1, 4, 8), np.float32),
        "k": np.zeros((1, 2, 8), np.float32),
        "v": np.zeros((1, 2, 8), np.float32),
        "layer": 0,
        "rows": (cpu.KVCache(1, 2, 8, "f16"), 1),
        **change,
    }
    good["rows"] = cpu.Rows([cpu.Segment(*good["rows"])])
    with pytest.raises((ValueError, TypeError), match=message):
        cpu.attention(**good)
