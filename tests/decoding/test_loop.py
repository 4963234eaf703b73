"""The decoding loop: what is drawn, where it ends, and what is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgereason.bundle import Sampling
from edgereason.decoding.loop import DecodeRequest, decode_ids
from edgereason.decoding.sampling import Sampler, distribution
from edgereason.decoding.stops import StopStrings
from edgereason.engines.base import Logits
from edgereason.errors import UsageError

logit_rows = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50).map(lambda row: np.array(row, np.float32))


class Counting:
    """A session whose most probable token is always the sequence's length so far, modulo its vocabulary."""

    def __init__(self, vocab: int) -> None:
        self.vocab, self.length = vocab, 0

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        self.length += len(ids)
        return np.eye(self.vocab, dtype=np.float32)[[self.length % self.vocab]]

    def close(self) -> None:
        pass


@given(logit_rows)
def test_greedy_takes_the_largest_logit(logits: np.ndarray) -> None:
    assert logits[Sampler(Sampling()).sample(logits)] == logits.max()


@given(logit_rows, st.integers(1, 60), st.floats(0.1, 3))
def test_top_k_leaves_the_k_most_probable(logits: np.ndarray, k: int, temperature: float) -> None:
    tokens, probabilities = distribution(logits, Sampling(temperature=temperature, top_k=k))
    assert len(tokens) == min(k, len(logits))
    assert sorted(logits[tokens]) == sorted(np.sort(logits)[-len(tokens) :])
    assert probabilities.sum() == pytest.approx(1)


@given(logit_rows, st.floats(0.05, 1))
def test_top_p_leaves_the_smallest_set_that_reaches_p(logits: np.ndarray, p: float) -> None:
    tokens, _ = distribution(logits, Sampling(temperature=1, top_p=p))
    full = np.exp(logits.astype(np.float64))
    kept = full[tokens] / full.sum()
    assert kept.sum() >= p - 1e-9
    assert kept[:-1].sum() < p + 1e-9  # without its last token it would not reach p


@given(logit_rows, st.floats(0, 1))
def test_min_p_leaves_what_is_probable_enough(logits: np.ndarray, min_p: float) -> None:
    tokens, _ = distribution(logits, Sampling(temperature=1, min_p=min_p))
    relative = np.exp(logits.astype(np.float64) - logits.max())
    assert set(np.flatnonzero(relative > min_p + 1e-9)) <= set(tokens)
    assert all(relative[tokens] >= min_p - 1e-9)


def sorted_distribution(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray, float]:
    """The definition: sort all tokens, then cut. Also how near a cut comes to a token it does not quite take."""
    order = np.argsort(-logits, kind="stable")[: sampling.top_k or None]
    scaled = logits[order].astype(np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled[0])
    probabilities /= probabilities.sum()
    before, floor = np.cumsum(probabilities) - probabilities, sampling.min_p * probabilities[0]
    keep = (probabilities >= floor) & ((before < sampling.top_p) | (sampling.top_p == 1))
    keep[0] = True
    distance = min(np.abs(probabilities[1:] - floor).min(initial=1), np.abs(before[1:] - sampling.top_p).min(initial=1))
    return order[keep], probabilities[keep] / probabilities[keep].sum(), distance


@given(
    vocab=st.sampled_from([1, 2, 300, 5000, 40_000]),
    steps=st.sampled_from([3, 1000, 1_000_000]),
    spread=st.sampled_from([0.01, 1.0, 5.0, 30.0]),
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 40, 1000, 50_000]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 0.9999, 1.0]),
    min_p=st.sampled_from([0.0, 0.001, 0.05, 1.0]),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=150, deadline=None)
def test_the_distribution_is_that_of_sorting_everything_ties_included(
    vocab: int, steps: int, spread: float, temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    logits = np.float32(np.rint(generator.uniform(-1, 1, vocab) * steps) / steps * spread)  # few steps, many ties
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, probabilities, distance = sorted_distribution(logits, sampling)
    assume(distance > 1e-13 or min_p == 1)
    found, theirs = distribution(logits, sampling)
    np.testing.assert_array_equal(found, tokens)
    np.testing.assert_allclose(theirs, probabilities, rtol=1e-11)


@pytest.mark.parametrize("cuts", [{}, {"top_p": 0.95}, {"top_k": 500}, {"min_p": 0.01}])
def test_draws_are_those_of_numpy_s_choice_from_the_sorted_tokens(cuts: dict[str, float]) -> None:
    generator = np.random.default_rng(1)
    sampler, random = Sampler(Sampling(temperature=1.5, seed=2, **cuts)), np.random.default_rng(2)  # type: ignore[arg-type]
    for _ in range(30):
        logits = np.float32(generator.standard_normal(3000) * generator.uniform(0, 5))
        tokens, probabilities, _ = sorted_distribution(logits, Sampling(temperature=1.5, **cuts))  # type: ignore[arg-type]
        assert sampler.sample(logits) == random.choice(tokens, p=probabilities)


def test_logits_that_are_no_numbers_are_the_least_probable() -> None:
    logits = np.full(2000, np.nan, np.float32)
    logits[[7, 1500]] = [1, 2]
    assert distribution(logits, Sampling(temperature=1, top_k=2))[0].tolist() == [1500, 7]


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = Sampler(Sampling(temperature=1.0, seed=7))
    counts = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=4)
    assert np.abs(counts / 20_000 - [0.5, 0.3, 0.15, 0.05]).max() < 0.015  # four standard deviations


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = np.zeros(100, dtype=np.float32)
    draws = [[sampler.sample(logits) for _ in range(20)] for sampler in (Sampler(Sampling(1.0, seed=3)) for _ in "ab")]
    assert draws[0] == draws[1]


def test_repetition_penalty_makes_seen_tokens_less_probable() -> None:
    logits = np.array([2.0, 1.9, -1.0], dtype=np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.5), seen=[0])
    assert sampler.sample(logits) == 1
    assert sampler.sample(logits) == 0  # both seen now, so the order is the old one
    assert logits[0] == 2.0  # the engine's logits stay as they were


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"min_p": 2}, {"repetition_penalty": 0}, {"seed": -1}],
)
def test_values_out_of_range_are_named(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values)).replace("_", "-")):
        Sampling(**values)  # type: ignore[arg-type]


def test_decoding_ends_at_a_stop_token_and_at_the_limit() -> None:
    request = DecodeRequest([0, 0, 0], 100, stop_ids=frozenset({7}))
    timings = request.timings
    assert list(decode_ids(Counting(10), request)) == [3, 4, 5, 6]
    assert (timings.prompt_tokens, timings.new_tokens) == (3, 5)
    assert list(decode_ids(Counting(10), DecodeRequest([0], 3))) == [1, 2, 3]


def test_decoding_never_feeds_a_token_that_it_does_not_need() -> None:
    session = Counting(10)
    list(decode_ids(session, DecodeRequest([0, 0], 3)))
    assert session.length == 4  # the third token needs no logits after it


@given(st.text("abX", max_size=40), st.lists(st.text("abX", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_end_the_text_before_the_first_of_them(text: str, strings: list[str], data: st.DataObject) -> None:
    stops, shown, rest = StopStrings(strings), "", text
    while rest and not stops.hit:
        size = data.draw(st.integers(1, len(rest)))
        shown += stops.push(rest[:size])
        rest = rest[size:]
    shown += stops.rest()
    # The stream stops at the string that is complete first; cutting `text` after each prefix finds the same.
    for end in range(len(text) + 1):
        hits = [at for at in (text[:end].find(string) for string in strings) if at >= 0]
        if hits:
            assert stops.hit
            assert text.startswith(shown)
            assert not any(string in shown for string in strings)
            return
    assert not stops.hit
    assert shown == text
