"""Distances between models, against torch's own arithmetic and against decoding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merged_model import random_ids, save_merged
from numpy.testing import assert_allclose

from edgereason.export.fidelity.distance import ComparedText, divergence, make_texts, measure_distance, predict
from edgereason.export.fidelity.reference_model import ReferenceModel


def random_logits(seed: int, length: int, vocab: int, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, vocab), scale=scale).astype(np.float32)


def torch_divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    first, second = (torch.log_softmax(torch.from_numpy(each).double(), -1) for each in (p, q))
    return torch.nn.functional.kl_div(second, first, reduction="none", log_target=True).sum(-1).numpy()


@given(st.integers(0, 2**32 - 1), st.integers(3, 90), st.integers(2, 200))
@settings(max_examples=40, deadline=None)
def test_the_divergence_of_whole_vocabularies_is_torch_s(seed: int, length: int, vocab: int) -> None:
    p, q = random_logits(seed, length, vocab), random_logits(seed + 1, length, vocab)
    text = ComparedText(tuple(random_ids(length, vocab, seed)), length - 1, 1)
    found = divergence(predict(text, p), text, q)
    assert_allclose(found, torch_divergence(p[:-1], q[:-1]), rtol=1e-9, atol=1e-12)
    assert (divergence(predict(text, p), text, p) < 1e-12).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 99))
@settings(max_examples=40, deadline=None)
def test_leaving_tokens_together_never_adds_to_a_divergence(seed: int, kept: int) -> None:
    p, q = random_logits(seed, 5, 100), random_logits(seed + 1, 5, 100)
    text = ComparedText(tuple(random_ids(5, 100, seed)), 2, 1)
    whole = divergence(predict(text, p), text, q)
    part = divergence(predict(text, p, kept), text, q)
    assert (part >= 0).all()
    assert (part <= whole + 1e-9).all()
    if kept == 99:  # of which one token is left alone
        assert_allclose(part, whole, rtol=1e-6)


def test_logits_that_are_not_finite_are_infinitely_far() -> None:
    p, q = random_logits(0, 4, 10), random_logits(1, 4, 10)
    q[1, 3] = np.nan
    text = ComparedText((1, 2, 3, 4), 2, 1)
    reference = [predict(text, p)]
    distance, _ = measure_distance([text], reference, reference, [(0, q)])
    assert np.isinf(divergence(reference[0], text, q)).tolist() == [False, True, False]
    assert np.isinf([distance.kl, distance.kl_p99, distance.perplexity]).all()


def test_perplexity_and_agreement_are_what_their_names_say() -> None:
    texts = [ComparedText(tuple(random_ids(9, 20, seed)), 5, 2) for seed in range(3)]
    p = [random_logits(seed, 9, 20) for seed in range(3)]
    q = [each + random_logits(9 + seed, 9, 20, 1.0) for seed, each in enumerate(p)]
    reference = [predict(text, rows) for text, rows in zip(texts, p, strict=True)]
    distance, _ = measure_distance(texts, reference, reference, enumerate(q))
    losses = [
        np.mean(
            [
                torch.nn.functional.cross_entropy(torch.from_numpy(rows[1:8]), torch.tensor(text.ids[2:])).item()
                for text, rows in zip(texts, model, strict=True)
            ]
        )
        for model in (q, p)
    ]
    assert_allclose(distance.perplexity, np.exp(losses[0] - losses[1]), rtol=1e-5)
    same = np.concatenate([first[1:8].argmax(1) == second[1:8].argmax(1) for first, second in zip(p, q, strict=True)])
    assert_allclose(distance.top1, same.mean())
    assert_allclose(distance.kl, distance.step_kl)


def test_what_all_prompts_begin_with_is_left_out() -> None:
    texts = make_texts([[1, 2, 3, 4], [1, 2, 5, 6, 7]], [[8], [9, 9]])
    assert [text.targets for text in texts] == [(3, 4, 8), (5, 6, 7, 9, 9)]
    assert make_texts([[1, 2, 3]], [[4]])[0].targets == (2, 3, 4)
    assert make_texts([[1, 2], [1, 2]], [[4], [5]])[0].targets == (2, 4)


def test_greedy_agreement_is_what_decoding_shows(tmp_path: Path) -> None:
    """Agreement is told from one pass over the reference's texts: here both models really write."""
    model = save_merged(tmp_path, initializer_range=0.3)
    prompts = [random_ids(length, model.config.vocab_size, length) for length in range(3, 15)]
    continuations = ReferenceModel(model).continue_greedily(prompts, frozenset([2]), 12)
    texts = make_texts(prompts, continuations)
    found = dict(ReferenceModel(model).logits(texts))
    reference = [predict(text, found[index]) for index, text in enumerate(texts)]
    with torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.004)
    written = ReferenceModel(model).continue_greedily(prompts, frozenset([2]), 12)
    distance, _ = measure_distance(texts, reference, reference, ReferenceModel(model).logits(texts))
    same = np.mean([first == second for first, second in zip(written, continuations, strict=True)])
    assert 0 < same < 1
    assert distance.greedy == same
