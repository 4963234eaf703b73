"""The KV cache: what forks share, what truncating leaves, what its bytes bring back. Plain lists are the witness."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resident import resident_bytes

import edgereason.kernels.cpu as cpu

LAYERS, HEADS, DIM, PAGE = 2, 2, 6, 64


def values_of(tokens):
    """float32 `[len(tokens), HEADS, DIM]`."""
    return np.asarray(tokens, np.float32)[:, None, None] + np.arange(HEADS * DIM, dtype=np.float32).reshape(HEADS, DIM)


def append(cache, tokens):
    """Write keys and values that tell which token and layer they belong to."""
    values = values_of(tokens)
    rows = cpu.Rows([cpu.Segment(cache, len(tokens), outputs=0)])
    for layer in range(LAYERS):
        cpu.attention(values, values + layer, -values - layer, layer, rows)
    rows.commit()


def state_of(cache):
    state = np.empty(cache.state_bytes(cache.length), np.uint8)
    cache.save(state)
    return state


def expected_state(tokens):
    """float32 keys `[length, DIM]` and values of each head of each layer."""
    values = values_of(tokens)
    heads = [[(values + layer)[:, h], (-values - layer)[:, h]] for layer in range(LAYERS) for h in range(HEADS)]
    return np.array(heads, np.float32).ravel().view(np.uint8)


verbs = st.sampled_from(["append", "fork", "truncate", "reload", "drop"])
actions = st.lists(st.tuples(verbs, st.integers(0, 9), st.integers(0, 150)), max_size=25)


@given(actions=actions)
@settings(max_examples=60, deadline=None)
def test_caches_hold_their_own_tokens_whatever_their_forks_do(actions):
    caches, lists, counter = [cpu.KVCache(LAYERS, HEADS, DIM, "f32")], [[]], 0
    for action, index, number in actions:
        i = index % len(caches)
        if action == "append":
            tokens = list(range(counter, counter + number))
            counter += number
            append(caches[i], tokens)
            lists[i] += tokens
        elif action == "fork":
            caches.append(caches[i].fork())
            lists.append(list(lists[i]))
        elif action == "truncate":
            length = min(number, len(lists[i]))
            caches[i].truncate(length)
            del lists[i][length:]
        elif action == "reload":
            caches[i].load(state_of(caches[i]), len(lists[i]))
        elif len(caches) > 1:
            del caches[i], lists[i]
    for cache, tokens in zip(caches, lists, strict=True):
        assert cache.length == len(tokens)
        np.testing.assert_array_equal(state_of(cache), expected_state(tokens))


def test_a_fork_takes_memory_only_for_what_is_its_own():
    cache = cpu.KVCache(LAYERS, HEADS, DIM, "f16")
    append(cache, range(10 * PAGE + 1))
    forks = [cache.fork() for _ in range(50)]
    before = resident_bytes()
    many = [fork.fork() for fork in forks for _ in range(100)]
    assert resident_bytes() - before < len(many) * cache.nbytes / 4
    assert cache.nbytes == 11 * 2 * LAYERS * HEADS * 2 * PAGE * DIM


@pytest.mark.parametrize("kind", ["f32", "f16", "int8"])
def test_a_state_loads_into_another_cache(kind):
    cache, other = (cpu.KVCache(LAYERS, HEADS, DIM, kind) for _ in range(2))
    append(cache, range(100))
    append(other, range(7))
    other.load(state_of(cache), 100)
    append(cache, range(5))
    append(other, range(5))
    np.testing.assert_array_equal(state_of(other), state_of(cache))


def test_rows_refuse_what_cannot_be():
    cache = cpu.KVCache(1, 1, 8, "f16")
    with pytest.raises(ValueError, match="a cache is in two segments"):
        cpu.Rows([cpu.Segment(cache, 1), cpu.Segment(cache, 1)])
    with pytest.raises(ValueError, match="outputs is 3, for 2 rows"):
        cpu.Rows([cpu.Segment(cache, 2, outputs=3)])
    with pytest.raises(ValueError, match="outputs is 0, for -1 rows"):
        cpu.Rows([cpu.Segment(cache, -1, outputs=0)])


def test_a_cache_that_changes_during_a_pass_takes_nothing():
    cache, other = cpu.KVCache(1, 1, 8, "f16"), cpu.KVCache(1, 1, 8, "f16")
    cache.load(np.zeros(cache.state_bytes(5), np.uint8), 5)
    rows = cpu.Rows([cpu.Segment(other, 3), cpu.Segment(cache, 3)])
    cache.truncate(2)
    with pytest.raises(ValueError, match="a cache changed during the forward pass"):
        rows.commit()
    assert (cache.length, other.length) == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 8, "f16"), "a cache of 0 layers"),
        ((1, 1, 513, "f16"), "heads of 513"),
        ((1, 1, 8, "f8"), "type has to be f32, f16 or int8, not f8"),
    ],
)
def test_caches_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cpu.KVCache(*arguments)


def test_states_and_lengths_that_do_not_fit_are_refused():
    cache = cpu.KVCache(1, 1, 8, "f16")
    for length in (-1, 1):
        with pytest.raises(ValueError, match="length is"):
            cache.truncate(length)
    with pytest.raises(ValueError, match="state has to be"):
        cache.load(np.zeros(cache.state_bytes(3) - 1, np.uint8), 3)
    with pytest.raises(ValueError, match="length is -1"):
        cache.load(np.zeros(0, np.uint8), -1)
    with pytest.raises(ValueError, match="state has to be"):
        cache.save(np.zeros(1, np.uint8))
