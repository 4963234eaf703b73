"""Packing keeps every value, and quantizing is no worse than rounding to nearest in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.kernels import packing


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


@pytest.mark.parametrize("columns", [256, 300])
@pytest.mark.parametrize("group", [32, 64, 128, None])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantizing_loses_less_than_rounding_over_the_whole_range(columns, group, bits, symmetric):
    weight = np.random.default_rng(0).standard_normal((50, columns)).astype(np.float32)
    packed = packing.quantize(weight, bits, group, symmetric)
    found = packed.dequantize()
    assert found.shape == weight.shape
    assert packed.group_size == (group or -(-columns // 32) * 32)
    assert ((found - weight) ** 2).sum() < nearest_squares(weight, bits, packed.group_size)


@given(rows=st.integers(1, 20), columns=st.integers(1, 150), bits=st.sampled_from([4, 8]), seed=st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_odd_sizes_keep_their_shape_and_values(rows, columns, bits, seed):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    for symmetric in (True, False):
        found = packing.quantize(weight, bits, 32, symmetric).dequantize()
        assert found.shape == weight.shape
        # The range may be cut by a quarter at 4 bits, and is divided into 15 or 255 steps.
        assert np.abs(found - weight).max() <= np.abs(weight).max() * (0.35 if bits == 4 else 0.02)


def nearest_squares(weight: np.ndarray, bits: int, group: int) -> float:
    """The squared error of symmetric rounding with the scale absmax / (2^(bits - 1) - 1): the plain way."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % group))).reshape(-1, group)
    scale = np.abs(padded).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    scale[scale == 0] = 1
    return float(((padded - np.rint(padded / scale) * scale) ** 2).sum())


def test_values_on_the_grid_are_kept():
    levels = np.arange(-8, 8, dtype=np.float32)
    weight = np.tile(np.concatenate([levels, levels[::-1]]), (16, 2)) * np.float32(0.25)
    np.testing.assert_array_equal(packing.quantize(weight, 4).dequantize(), weight)


def test_zeros_stay_zero():
    for symmetric in (True, False):
        assert not packing.quantize(np.zeros((3, 40), np.float32), 4, 32, symmetric).dequantize().any()


@pytest.mark.parametrize("sizes", [(16, 32), (5, 20, 7)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_concatenating_keeps_rows_in_order(sizes, symmetric):
    generator = np.random.default_rng(0)
    parts = [packing.quantize(generator.standard_normal((n, 70)).astype(np.float32), 4, 32, symmetric) for n in sizes]
    whole = packing.concatenate(parts)
    assert whole.rows == sum(sizes)
    np.testing.assert_array_equal(whole.dequantize(), np.concatenate([part.dequantize() for part in parts]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits"),
        ({"group_size": 48}, "group_size"),
        ({"weight": np.zeros(4, np.float32)}, "weight"),
        ({"weight": np.full((2, 2), np.nan, np.float32)}, "finite"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        packing.quantize(**{"weight": np.zeros((4, 32), np.float32), "bits": 4, **arguments})


def test_bfloat16_is_the_upper_half_of_float32():
    values = np.array([[1.0, -2.5, 0.0, 3e38]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(packing.BFloat16(bits).to_float32(), (bits.astype(np.uint32) << 16).view(np.float32))
    assert packing.BFloat16(bits).to_float32()[0, 1] == -2.5
