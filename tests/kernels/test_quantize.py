"""Rounding weights: the definition in numpy, to the bit, with every instruction set; no worse than the plain way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgereason.kernels import cpu, packing

Float32 = npt.NDArray[np.float32]
Levels = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16], npt.NDArray[np.uint8]]

FRACTIONS = {4: np.linspace(0.76, 1.06, 11, dtype=np.float32), 8: np.ones(1, np.float32)}


def ordered_sum(values: Float32) -> Float32:
    """The sum over the last axis in the order of rounding.h: float32 `[..., 1]`."""
    count = values.shape[-1]
    if count > 128:
        first = count // 2 // 8 * 8
        return ordered_sum(values[..., :first]) + ordered_sum(values[..., first:])
    lines = values.reshape(*values.shape[:-1], -1, 8)
    s = lines[..., 0, :]
    for index in range(1, lines.shape[-2]):
        s = s + lines[..., index, :]
    s = s[..., 0::2] + s[..., 1::2]
    s = s[..., 0::2] + s[..., 1::2]
    return s[..., :1] + s[..., 1:]


def inverse(values: Float32) -> Float32:
    return np.divide(1, values, out=np.zeros_like(values), where=values != 0)


def round_symmetric(groups: Float32, bits: int) -> Levels:
    half = 1 << (bits - 1)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(axis=-1)[..., None], axis=-1)
    least, best = np.full(extreme.shape, np.inf, np.float32), np.zeros(extreme.shape, np.float32)
    for fraction in FRACTIONS[bits]:
        levels = np.clip(np.rint(groups * inverse(extreme * (-fraction / half))), -half, half - 1)
        scale = ordered_sum(groups * levels) * inverse(ordered_sum(levels * levels))
        error = ordered_sum((groups - scale * levels) ** 2)
        best, least = np.where(error < least, scale, best), np.where(error < least, error, least)
    stored = best.astype(np.float16)
    levels = np.clip(np.rint(groups * inverse(stored.astype(np.float32))), -half, half - 1)
    return (levels + half).astype(np.uint8), stored, np.full(stored.shape, half, np.uint8)


def round_asymmetric(groups: Float32, bits: int) -> Levels:
    top = (1 << bits) - 1
    low = np.minimum(groups.min(axis=-1, keepdims=True), 0)
    high = np.maximum(groups.max(axis=-1, keepdims=True), 0)
    least, best = np.full(low.shape, np.inf, np.float32), np.zeros(groups.shape, np.uint8)
    scales, zeros = np.zeros(low.shape, np.float16), np.zeros(low.shape, np.uint8)
    for fraction in FRACTIONS[bits]:
        stored = ((high - low) * (fraction / top)).astype(np.float16)
        scale = stored.astype(np.float32)
        zero = np.clip(np.rint(-low * fraction * inverse(scale)), 0, top)
        q = np.clip(np.rint(groups * inverse(scale)) + zero, 0, top)
        error = ordered_sum((groups - scale * (q - zero)) ** 2)
        better = error < least
        best, least = np.where(better, q.astype(np.uint8), best), np.where(better, error, least)
        scales, zeros = np.where(better, stored, scales), np.where(better, zero.astype(np.uint8), zeros)
    return best, scales, zeros


def with_each_isa() -> Iterator[str]:
    try:
        for isa in cpu.isas():
            cpu.use_isa(isa)
            yield isa
    finally:
        cpu.use_isa(None)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 400),
    group=st.sampled_from([32, 64, 96, 128, 256, None]),
    bits=st.sampled_from([4, 8]),
    symmetric=st.booleans(),
    deviation=st.sampled_from([1e-7, 1e-4, 0.02, 1.0, 3e4]),
    zeros=st.sampled_from([0.0, 0.3, 0.97]),
    steps=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
@example(20, 900, None, 4, True, 1.0, 0.0, False, 0)  # sums of more than 128 values, in parts of different lengths
@settings(max_examples=60, deadline=None)
def test_every_instruction_set_gives_what_the_definition_says(
    rows, columns, group, bits, symmetric, deviation, zeros, steps, seed
):
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((rows, columns), np.float32)
    if steps:  # values that repeat and lie halfway between levels
        weight = np.rint(weight * 8) / np.float32(16)
    weight *= np.float32(deviation)
    weight[generator.random(weight.shape) < zeros] = 0
    size = group or -(-columns // 32) * 32
    groups = np.pad(weight, ((0, 0), (0, -columns % size))).reshape(rows, -1, size)
    q, scales, origins = (round_symmetric if symmetric else round_asymmetric)(groups, bits)
    expected = packing.pack(q.reshape(rows, -1), scales[..., 0], None if symmetric else origins[..., 0], bits, columns)
    for isa in with_each_isa():
        found = cpu.quantize(weight, bits, group, symmetric)
        np.testing.assert_array_equal(found.scales, expected.scales, isa)
        np.testing.assert_array_equal(found.qweight, expected.qweight, isa)
        if symmetric:
            assert found.zeros is None
        else:
            np.testing.assert_array_equal(found.zeros, expected.zeros, isa)
        assert (found.rows, found.columns, found.bits) == (rows, columns, bits)


def test_neither_threads_nor_distances_between_rows_matter():
    wide = np.random.default_rng(0).standard_normal((200, 512)).astype(np.float32)
    expected = cpu.quantize(np.ascontiguousarray(wide[:, :256]), 4)
    try:
        for threads in (1, 2, 3):
            cpu.set_threads(threads)
            for weight in (wide[:, :256], np.asfortranarray(wide[:, :256])):
                found = cpu.quantize(weight, 4)
                np.testing.assert_array_equal(found.qweight, expected.qweight)
                np.testing.assert_array_equal(found.scales, expected.scales)
    finally:
        cpu.set_threads(None)


def test_16_bits_are_rounded_as_the_float32_values_that_they_are():
    generator = np.random.default_rng(0)
    half = generator.standard_normal((40, 150)).astype(np.float16)
    upper = packing.BFloat16((generator.standard_normal((40, 150), np.float32).view(np.uint32) >> 16).astype(np.uint16))
    for weight, values in ((half, half.astype(np.float32)), (upper, upper.to_float32())):
        for isa in with_each_isa():
            found, expected = cpu.quantize(weight, 4, 64), cpu.quantize(values, 4, 64)
            np.testing.assert_array_equal(found.scales, expected.scales, isa)
            np.testing.assert_array_equal(found.qweight, expected.qweight, isa)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_value_that_is_not_finite_is_found_wherever_it_is(value, symmetric):
    for place in ((0, 0), (17, 69), (36, 31)):
        weight = np.ones((37, 70), np.float32)
        weight[place] = value
        for isa in with_each_isa():
            with pytest.raises(ValueError, match="finite"):
                cpu.quantize(weight, 4, 32, symmetric)
            assert isa


@pytest.mark.parametrize("columns", [256, 300])
@pytest.mark.parametrize("group", [32, 64, 128, None])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantizing_loses_less_than_rounding_over_the_whole_range(columns, group, bits, symmetric):
    weight = np.random.default_rng(0).standard_normal((50, columns)).astype(np.float32)
    packed = cpu.quantize(weight, bits, group, symmetric)
    found = packed.dequantize()
    assert found.shape == weight.shape
    assert packed.group_size == (group or -(-columns // 32) * 32)
    assert ((found - weight) ** 2).sum() < nearest_squares(weight, bits, packed.group_size)


@given(rows=st.integers(1, 20), columns=st.integers(1, 150), bits=st.sampled_from([4, 8]), seed=st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_odd_sizes_keep_their_shape_and_values(rows, columns, bits, seed):
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    for symmetric in (True, False):
        found = cpu.quantize(weight, bits, 32, symmetric).dequantize()
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
    np.testing.assert_array_equal(cpu.quantize(weight, 4).dequantize(), weight)


def test_zeros_stay_zero():
    for symmetric in (True, False):
        assert not cpu.quantize(np.zeros((3, 40), np.float32), 4, 32, symmetric).dequantize().any()


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
        cpu.quantize(**{"weight": np.zeros((4, 32), np.float32), "bits": 4, **arguments})
