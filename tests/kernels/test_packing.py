"""Packing keeps every value, and puts it where the layout says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.kernels import cpu, packing


@given(
    rows=st.integers(1, 40),
    groups=st.integers(1, 4),
    blocks_per_group=st.sampled_from([1, 2, 4]),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=60, deadline=None)
def test_unpack_gives_back_what_was_packed(rows, groups, blocks_per_group, bits, symmetric, seed):
    generator = np.random.default_rng(seed)
    q = generator.integers(0, 1 << bits, (rows, 32 * groups * blocks_per_group), np.uint8)
    scales = generator.standard_normal((rows, groups)).astype(np.float16)
    zeros = None if symmetric else generator.integers(0, 1 << bits, (rows, groups), np.uint8)
    found = packing.unpack(packing.pack(q, scales, zeros, bits))
    np.testing.assert_array_equal(found[0], q)
    np.testing.assert_array_equal(found[1], scales)
    if zeros is None:
        assert found[2] is None
    else:
        np.testing.assert_array_equal(found[2], zeros)


def test_bytes_lie_where_the_layout_says():
    q = np.arange(16 * 32).reshape(16, 32).astype(np.uint8) & 15
    scales = np.ones((16, 1), np.float16)
    block4 = packing.pack(q, scales, None, 4).qweight[0, 0]
    block8 = packing.pack(q, scales, None, 8).qweight[0, 0]
    for row in range(16):
        for column in range(32):
            line, j = divmod(column, 8)
            byte = block4[64 * line + 4 * row + j % 4]
            assert (byte & 15 if j < 4 else byte >> 4) == q[row, column]
            assert block8[64 * (column // 4) + 4 * row + column % 4] == q[row, column]


@pytest.mark.parametrize("sizes", [(16, 32), (5, 20, 7)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_concatenating_keeps_rows_in_order(sizes, symmetric):
    generator = np.random.default_rng(0)
    parts = [cpu.quantize(generator.standard_normal((n, 70)).astype(np.float32), 4, 32, symmetric) for n in sizes]
    whole = packing.concatenate(parts)
    assert whole.rows == sum(sizes)
    np.testing.assert_array_equal(whole.dequantize(), np.concatenate([part.dequantize() for part in parts]))


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([[1.0, -2.5, 0.0, 3e38]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(packing.BFloat16(bits).to_float32(), (bits.astype(np.uint32) << 16).view(np.float32))
    assert packing.BFloat16(bits).to_float32()[0, 1] == -2.5
