"""Recorded forward passes: a replay computes, bit for bit, what calling the function again computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu

HEADS, DIM, HIDDEN, WIDTH = 2, 16, 32, 48


class Block:
    """A transformer's block on random float weights, and one adapter on each of them."""

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)

        def weight(rows: int, columns: int) -> cpu.Weight:
            made = cpu.prepare(generator.normal(0, 0.2, (rows, columns)).astype(np.float32))
            a, b = (generator.normal(0, 0.2, shape).astype(np.float32) for shape in ((4, columns), (rows, 4)))
            cpu.attach(made, 0, [cpu.LoraPart(a, b, 0.5)])
            return made

        self.table = weight(40, HIDDEN)
        self.norm = generator.normal(1, 0.1, HIDDEN).astype(np.float32)
        self.qkv, self.o = weight(3 * HEADS * DIM, HIDDEN), weight(HIDDEN, HEADS * DIM)
        self.gate_up, self.down = weight(2 * WIDTH, HIDDEN), weight(HIDDEN, WIDTH)
        self.calls = 0

    def __call__(self, ids, rows, rotary):
        self.calls += 1
        x = cpu.embedding(ids, self.table)
        qkv = cpu.linear(cpu.rms_norm(x, self.norm, 1e-6), self.qkv, rows).reshape(len(ids), 3 * HEADS, DIM)
        cpu.rope(qkv[:, : 2 * HEADS], *rotary[0])
        mixed = cpu.attention(qkv[:, :HEADS], qkv[:, HEADS : 2 * HEADS], qkv[:, 2 * HEADS :], 0, rows)
        x = cpu.linear(mixed, self.o, rows, add=x)
        return cpu.linear(cpu.swiglu(cpu.linear(x, self.gate_up, rows)), self.down, rows, add=x)


def one_pass(compute, caches, adapters, tokens):
    """Appends `tokens`, a list for each cache, and returns a copy of what `compute` makes of them."""
    segments = [cpu.Segment(*each) for each in zip(caches, map(len, tokens), adapters, strict=True)]
    rows, ids = cpu.Rows(segments), np.concatenate(tokens).astype(np.int64)
    angles = rows.positions[:, None] * np.float32(0.3) ** np.arange(DIM // 2, dtype=np.float32)
    x = compute(ids, rows, [(np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32))]).copy()
    rows.commit()
    return x


Passes = st.lists(st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=9), min_size=2, max_size=2), max_size=9)


@given(Passes, st.tuples(st.sampled_from([0, cpu.NO_ADAPTER]), st.sampled_from([0, cpu.NO_ADAPTER])))
def test_repeated_passes_are_those_of_the_function(passes, adapters):
    block = Block()
    recorder = cpu.Recorder(block)
    recorded, called = ([cpu.KVCache(1, HEADS, DIM, "f32") for _ in range(2)] for _ in range(2))
    for tokens in passes:
        got = one_pass(recorder, recorded, adapters, tokens)
        assert got.tobytes() == one_pass(block, called, adapters, tokens).tobytes()


def test_each_number_of_rows_calls_the_function_once():
    block = Block()
    recorder, cache = cpu.Recorder(block), cpu.KVCache(1, HEADS, DIM, "f32")
    for count in [1, 2, 1, 16, 2, 1, 16]:
        one_pass(recorder, [cache], [0], [[7] * count])
    assert block.calls == 3
    for _ in range(2):
        one_pass(recorder, [cache], [0], [[7] * 17])
    assert block.calls == 5


@pytest.mark.parametrize("foreign", ["result", "operand"])
def test_what_numpy_computes_is_not_recorded(foreign):
    block = Block()

    def scaled(ids, rows, rotary):
        x = block(ids, rows, rotary) * np.float32(2)
        return x if foreign == "result" else cpu.rms_norm(x, block.norm, 1e-6)

    recorder = cpu.Recorder(scaled)
    recorded, called = (cpu.KVCache(1, HEADS, DIM, "f32") for _ in range(2))
    for token in (3, 1, 4):
        got = one_pass(recorder, [recorded], [0], [[token]])
        assert got.tobytes() == one_pass(scaled, [called], [0], [[token]]).tobytes()
    assert block.calls == 6


def test_a_pass_that_fails_is_not_repeated():
    block = Block()
    recorder, cache = cpu.Recorder(block), cpu.KVCache(1, HEADS, DIM, "f32")
    with pytest.raises(ValueError, match="outside of 0 to 39"):
        one_pass(recorder, [cache], [0], [[40]])
    expected = one_pass(block, [cpu.KVCache(1, HEADS, DIM, "f32")], [0], [[5]])
    for _ in range(2):
        assert one_pass(recorder, [cache], [0], [[5]]).tobytes() == expected.tobytes()
        cache.truncate(0)
    with pytest.raises(ValueError, match="outside of 0 to 39"):
        one_pass(recorder, [cache], [0], [[40]])
