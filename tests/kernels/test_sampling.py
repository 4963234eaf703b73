"""Selecting tokens against numpy's stable sort and exponentials."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgereason.kernels.cpu as cpu


@given(
    size=st.integers(1, 20_000),
    share=st.floats(0, 1),
    steps=st.sampled_from([1, 5, 1000, 1_000_000]),
    ascending=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=100, deadline=None)
def test_top_is_the_beginning_of_a_stable_sort(size, share, steps, ascending, seed):
    generator = np.random.default_rng(seed)
    logits = np.float32(generator.integers(-steps, steps, size, endpoint=True)) * generator.choice([-1, 1], size)
    logits = np.sort(logits) if ascending else logits
    logits[generator.random(size) < 0.01] = -np.inf
    logits[generator.random(size) < 0.01] = np.nan
    count = int(share**4 * size)
    expected = np.argsort(-np.nan_to_num(logits, nan=-np.inf, posinf=np.inf, neginf=-np.inf), kind="stable")
    np.testing.assert_array_equal(cpu.top(np.float32(logits), count), expected[:count])


@given(
    size=st.integers(1, 20_000),
    spread=st.floats(0, 100),
    temperature=st.floats(0.05, 10),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_mass_is_the_sum_of_exponentials(size, spread, temperature, threads, seed):
    logits = np.float32(np.random.default_rng(seed).standard_normal(size) * spread)
    highest = float(logits.max())
    exact = np.exp((logits.astype(np.float64) - highest) / temperature).sum()
    cpu.set_threads(threads)
    assert cpu.softmax_mass(logits, highest, temperature) == pytest.approx(exact, rel=1e-13)
    cpu.set_threads(None)


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="count is 4, there are 3"):
        cpu.top(np.zeros(3, np.float32), 4)
    with pytest.raises(ValueError, match="temperature is 0"):
        cpu.softmax_mass(np.zeros(3, np.float32), 0, 0)
    with pytest.raises(TypeError, match="logits has to be float32"):
        cpu.top(np.zeros(3), 1)


def test_arrays_that_name_their_byte_order_are_taken() -> None:
    """As those do that numpy makes of ctypes' memory, where llama.cpp's logits lie."""
    memory = (ctypes.c_float * 6)(1, 5, 2, 7, 3, 4)
    logits = np.ctypeslib.as_array(memory).copy()
    assert memoryview(logits).format == "<f"
    assert cpu.top(logits, 2).tolist() == [3, 1]
    with pytest.raises(TypeError, match="logits has to be float32"):
        cpu.top(logits.astype(">f4"), 2)
