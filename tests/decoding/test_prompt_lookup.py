"""Prompt lookup: what it proposes, that it changes no token, and that it follows the distribution it is given."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import HELD_OUT

from edgereason import LanguageModel, load
from edgereason.bundle import STAGES, Sampling
from edgereason.decoding.loop import DecodeRequest, decode_ids
from edgereason.decoding.prompt_lookup import MOST_ROWS, Acceptance, PromptLookup
from edgereason.engines.base import Logits

VOCAB = 4
TABLE = 0.4 * np.random.default_rng(5).normal(size=(VOCAB, VOCAB)).astype(np.float32)
TABLE[range(VOCAB), [1, 2, 3, 0]] += 1  # a text that goes round is somewhat more probable


class Markov:
    """A session whose next token depends on the last one alone, by `TABLE`: its distribution can be written down."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.rows = self.passes = 0

    @property
    def length(self) -> int:
        return len(self.ids)

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        self.passes, self.rows = self.passes + 1, self.rows + len(ids)
        self.ids += ids
        return TABLE[list(ids) if every else list(ids)[-1:]]

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        del self.ids[length:]

    def close(self) -> None:
        pass


class Fixed(Markov):
    """A session that writes a given text, whatever it reads."""

    def __init__(self, text: Sequence[int], vocab: int) -> None:
        super().__init__()
        self.text, self.vocab = text, vocab

    def advance(self, ids: Sequence[int], every: bool = False) -> Logits:
        super().advance([token % VOCAB for token in ids])
        ends = range(self.length - len(ids), self.length) if every else [self.length - 1]
        return np.eye(self.vocab, dtype=np.float32)[[self.text[(end + 1) % len(self.text)] for end in ends]]


texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40)


@given(texts, texts, st.integers(0, 15))
def test_what_followed_the_longest_match_last_is_proposed(prompt: list[int], written: list[int], most: int) -> None:
    lookup = PromptLookup(prompt, token_cost=0.0)
    lookup.extend(written)
    text = prompt + written
    expected: list[int] = []
    for n in range(1, min(4, len(text)) + 1):  # the witness looks through the whole text
        places = [end for end in range(n, len(text)) if text[end - n : end] == text[-n:]]
        if places:
            expected = text[places[-1] :]
    proposed = lookup.propose(most)
    assert proposed == expected[: len(proposed)]
    assert len(proposed) >= min(1, most, len(expected))


@given(texts, st.integers(1, 30), st.sets(st.integers(0, VOCAB - 1), max_size=1), st.integers(0, 99), st.booleans())
@settings(deadline=None)
def test_every_token_is_the_one_of_plain_decoding(
    prompt: list[int], limit: int, stops: set[int], seed: int, greedy: bool
) -> None:
    sampling = Sampling(temperature=0.0 if greedy else 1.0, repetition_penalty=1.3, seed=seed)
    written, sessions = [], []
    for lookup in (None, PromptLookup(prompt, token_cost=0.01)):
        sessions.append(Markov())
        request = DecodeRequest(prompt, limit, sampling, frozenset(stops), lookup=lookup)
        written.append(list(decode_ids(sessions[-1], request)))  # type: ignore[arg-type]
    assert written[0] == written[1]
    assert sessions[0].ids == sessions[1].ids  # nothing that was wrong stays in the cache
    assert sessions[1].passes <= sessions[0].passes


@pytest.mark.parametrize("penalty", [1.0, 1.8])
def test_sampled_texts_follow_the_distribution(penalty: float) -> None:
    """Chi-square over all texts of three tokens, against probabilities multiplied out by hand."""
    prompt, count = [0, 1, 2, 0, 1, 2, 0], 10_000
    found: Counter[tuple[int, ...]] = Counter()
    passes = 0
    for seed in range(count):
        session = Markov()
        sampling = Sampling(temperature=1.0, repetition_penalty=penalty, seed=seed)
        request = DecodeRequest(prompt, 3, sampling, lookup=PromptLookup(prompt, token_cost=0.01))
        found[tuple(decode_ids(session, request))] += 1  # type: ignore[arg-type]
        passes += session.passes
    assert passes < 2.9 * count  # proposals were kept, so the rule was at work

    statistic = 0.0
    for text in itertools.product(range(VOCAB), repeat=3):
        probability, seen, last = 1.0, set(prompt), prompt[-1]
        for token in text:
            logits = TABLE[last].astype(np.float64)
            for old in seen:
                logits[old] = logits[old] / penalty if logits[old] > 0 else logits[old] * penalty
            weights = np.exp(logits)
            probability *= weights[token] / weights.sum()
            seen.add(token)
            last = token
        assert count * probability > 5
        statistic += (found[text] - count * probability) ** 2 / (count * probability)
    assert statistic < 103.4  # the 99.9% quantile for 63 degrees of freedom


def test_repeated_words_take_fewer_passes() -> None:
    text = list(range(20)) * 5
    session = Fixed(text, 20)
    request = DecodeRequest(text[:25], 60, lookup=PromptLookup(text[:25]))
    written = list(decode_ids(session, request))  # type: ignore[arg-type]
    assert written == text[25:85]
    assert session.passes < 20


def test_where_nothing_matches_nothing_more_is_computed() -> None:
    text = list(range(100))
    session = Fixed(text, 100)
    request = DecodeRequest([0], 90, lookup=PromptLookup([0]))
    assert len(list(decode_ids(session, request))) == 90  # type: ignore[arg-type]
    assert (session.rows, session.passes) == (90, 90)


def test_where_rows_cost_as_much_as_passes_nothing_is_proposed() -> None:
    assert PromptLookup([1, 2, 3] * 5, token_cost=1.0).propose() == []
    assert PromptLookup([1, 2, 3] * 5, token_cost=0.1).propose() == [1, 2, 3]


def test_matches_that_are_always_wrong_are_soon_left_alone() -> None:
    """A text in which every token comes back, and each time another one follows it."""
    random = np.random.default_rng(3)
    text = random.integers(0, 30, 600).tolist()
    session = Fixed(text, 30)
    list(decode_ids(session, DecodeRequest(text[:100], 400, lookup=PromptLookup(text[:100]))))  # type: ignore[arg-type]
    assert session.rows - 100 < 1.2 * 400


def test_what_one_text_has_shown_the_next_ones_know() -> None:
    words = [1, 2, 3] * 5
    acceptance = Acceptance()
    first = PromptLookup(words, acceptance=acceptance)
    for _ in range(20):
        first.propose()
        first.learn(3, 0)
    assert PromptLookup(words, acceptance=acceptance).propose() == []
    assert PromptLookup(words).propose() == [1, 2, 3]


def test_the_more_texts_share_a_pass_the_less_is_proposed() -> None:
    lookup = PromptLookup([1, 2, 3] * 5, token_cost=0.1)
    counts = [len(lookup.propose(batch_size=size)) for size in (1, 2, 4, 8, 16, 1000)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (3, 0)


def questions(count: int) -> list[str]:
    return [json.loads(line)["question"] for line in HELD_OUT.read_text().splitlines()[:count]]


def test_greedy_texts_of_the_example_are_the_same_in_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with load() as reasoner:
        passes = Counter[bool]()
        for question in questions(50):
            guidance = None
            for name in STAGES:
                model, stage = reasoner.models[name], reasoner.bundle.stages[name]
                prompt = model.tokenizer.encode(model.tokenizer.render(stage.prompt.messages(question, guidance)))
                written = [decoded(model, prompt, stage.stop_ids, lookup, passes) for lookup in (False, True)]
                assert written[0] == written[1]
                guidance = model.tokenizer.decode(written[0])
    assert passes[True] < 0.9 * passes[False]


def decoded(
    model: LanguageModel, prompt: list[int], stops: frozenset[int], lookup: bool, passes: Counter[bool]
) -> list[int]:
    session = model.engine.session(len(prompt) + 64)
    advance = session.advance

    def counted(ids: Sequence[int], every: bool = False) -> Logits:
        passes[lookup] += 1
        return advance(ids, every)

    session.advance = counted  # type: ignore[method-assign]
    proposals = PromptLookup(prompt) if lookup else None
    written = list(decode_ids(session, DecodeRequest(prompt, 64, stop_ids=stops, lookup=proposals)))
    session.close()
    return written


@pytest.mark.parametrize("source", ["example", "random"])
def test_several_rows_have_the_logits_of_one_at_a_time(source: str, native_bundle: Path) -> None:
    """Bit for bit on the native engine: what makes greedy decoding with proposals exact."""
    with load(None if source == "example" else native_bundle) as reasoner:
        engine = reasoner.models["answer"].engine
        ids = np.random.default_rng(1).integers(0, engine.vocab_size, 20 + MOST_ROWS).tolist()
        for rows in (2, 5, 6, 7, 8, 13, MOST_ROWS):
            together, alone = engine.session(), engine.session()
            together.advance(ids[:20])
            alone.advance(ids[:20])
            expected = np.concatenate([alone.advance([token]) for token in ids[20 : 20 + rows]])
            np.testing.assert_array_equal(together.advance(ids[20 : 20 + rows], every=True), expected)
            together.close()
            alone.close()
