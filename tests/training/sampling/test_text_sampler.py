"""Sampling on the engine: what transformers writes, the same after an interruption, and with the adapter of the day."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from computations import due, save_calculating_trio
from places import HELD_OUT, WORD_PROBLEMS

from edgereason.errors import BundleError, ContextError, UsageError
from edgereason.training.chat_tokens import Chat
from edgereason.training.recipes.preferences import prompt_of
from edgereason.training.sampling import text_sampler
from edgereason.training.sampling.native_sampler import NativeSampler
from edgereason.training.sampling.text_sampler import Opening, SampledText, SamplingSettings, TextSampler, sample_texts
from edgereason.training.sampling.transformers_sampler import TransformersSampler
from edgereason.training.training_base import TrainingBase, open_training_base

HOT = SamplingSettings(count=3, temperature=1.5, max_new_tokens=24)
GREEDY = SamplingSettings(count=1, temperature=0, max_new_tokens=96)


@pytest.fixture(scope="module")
def base() -> TrainingBase:
    return open_training_base(WORD_PROBLEMS / "base")


@pytest.fixture(scope="module")
def native(base: TrainingBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeSampler]:
    sampler = NativeSampler(base, tmp_path_factory.mktemp("native"))
    sampler.use(WORD_PROBLEMS / "answer")
    yield sampler
    sampler.close()


@pytest.fixture(scope="module")
def problems() -> list[dict[str, str]]:
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    # One step: the base in 8 bits computes as the base does.
    return [json.loads(line) for line in lines if line.count("<<") == 1][:10]


@pytest.fixture(scope="module")
def openings(base: TrainingBase, problems: list[dict[str, str]]) -> list[Opening]:
    chat, prompt = Chat(base.path), prompt_of(WORD_PROBLEMS / "answer")
    return [Opening(chat.prompt(prompt, each["question"], each["guidance"])) for each in problems]


def quiet(_: int, __: int) -> None: ...


def test_both_samplers_write_the_same_greedily(
    native: NativeSampler, base: TrainingBase, openings: list[Opening], problems: list[dict[str, str]]
) -> None:
    """The example's answers have wide margins: 8 bits change none of them."""
    reference = TransformersSampler(base, torch.device("cpu"))
    reference.use(WORD_PROBLEMS / "answer")
    found = native.sample(openings, GREEDY, seed=0)
    assert found == reference.sample(openings, GREEDY, seed=0)
    assert all(text.ended for (text,) in found)
    right = sum(text.text == each["answer"] for (text,), each in zip(found, problems, strict=True))
    assert right >= 0.8 * len(problems)
    begun = [
        Opening(each.prompt, text.text.splitlines(keepends=True)[0])
        for each, (text,) in zip(openings, found, strict=True)
    ]
    rest = native.sample(begun, GREEDY, seed=0)
    assert rest == reference.sample(begun, GREEDY, seed=0)
    assert [each.written + text.text for each, (text,) in zip(begun, rest, strict=True)] == [
        text.text for (text,) in found
    ]


@pytest.mark.parametrize("kind", ["native", "transformers"])
def test_texts_follow_from_the_seed_and_differ(
    kind: str, native: NativeSampler, base: TrainingBase, openings: list[Opening]
) -> None:
    sampler: TextSampler = native
    if kind == "transformers":
        sampler = TransformersSampler(base, torch.device("cpu"))
        sampler.use(WORD_PROBLEMS / "answer")
    found = sampler.sample(openings[:4], HOT, seed=1)
    assert found == sampler.sample(openings[:4], HOT, seed=1)
    assert found != sampler.sample(openings[:4], HOT, seed=2)
    assert [len(texts) for texts in found] == [HOT.count] * 4
    assert any(len(set(texts)) > 1 for texts in found)
    assert any(not text.ended for texts in found for text in texts)  # 24 tokens are too few at this temperature


def test_samples_have_the_models_distribution(
    native: NativeSampler, base: TrainingBase, openings: list[Opening]
) -> None:
    """The first tokens' frequencies against the probabilities that transformers computes."""
    reference = TransformersSampler(base, torch.device("cpu"))
    reference.use(WORD_PROBLEMS / "answer")
    tokenizer = Chat(base.path).tokenizer
    opening = Opening(openings[0].prompt, "47")
    ids = torch.tensor([tokenizer.encode(opening.prompt) + tokenizer.encode(opening.written)])
    assert reference._adapted is not None
    with torch.inference_mode():
        chances = torch.softmax(reference._adapted(ids).logits[0, -1] / 6.0, -1)
    count = 1500
    sampling = SamplingSettings(count=count, temperature=6.0, max_new_tokens=1)
    texts = [text.text for text in native.sample([opening], sampling, seed=3)[0]]
    best = torch.topk(chances, 5)
    for chance, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        share = texts.count(tokenizer.decode([token])) / count
        assert abs(share - chance) < 4 * (chance * (1 - chance) / count) ** 0.5 + 0.01


def test_an_adapter_takes_the_place_of_the_one_before(
    native: NativeSampler, base: TrainingBase, openings: list[Opening], tmp_path: Path
) -> None:
    before = native.sample(openings[:2], GREEDY, seed=0)
    native.use(WORD_PROBLEMS / "guidance")
    try:
        assert native.sample(openings[:2], GREEDY, seed=0) != before
    finally:
        native.use(WORD_PROBLEMS / "answer")
    assert native.sample(openings[:2], GREEDY, seed=0) == before
    with pytest.raises(BundleError):
        native.use(tmp_path)
    assert native.sample(openings[:2], GREEDY, seed=0) == before


class InterruptedSamplingError(Exception):
    pass


class Counting:
    """A sampler around another one that counts its calls, and breaks off in one of them."""

    def __init__(self, sampler: TextSampler, fails: int = 0) -> None:
        self.sampler, self.fails, self.calls = sampler, fails, 0

    def use(self, adapter: Path) -> None:
        self.sampler.use(adapter)

    def sample(self, openings: Sequence[Opening], settings: SamplingSettings, seed: int) -> list[list[SampledText]]:
        self.calls += 1
        if self.calls == self.fails:
            raise InterruptedSamplingError
        return self.sampler.sample(openings, settings, seed)

    def close(self) -> None: ...


def test_an_interrupted_sampling_goes_on_to_the_same_texts(
    native: NativeSampler, openings: list[Opening], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_sampler, "CHUNK", 4)
    whole = sample_texts(native, openings, HOT, 5, tmp_path / "whole.jsonl", quiet)
    with pytest.raises(InterruptedSamplingError):
        sample_texts(Counting(native, fails=3), openings, HOT, 5, tmp_path / "cut.jsonl", quiet)
    file = next(tmp_path.glob("cut.*"))
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 8
    file.write_text("".join(lines[:6]) + lines[6][:9], encoding="utf-8")  # as if it had stopped while writing
    counting, seen = Counting(native), []
    resumed = sample_texts(
        counting, openings, HOT, 5, tmp_path / "cut.jsonl", lambda done, total: seen.append((done, total))
    )
    assert resumed == whole
    assert counting.calls == 2
    assert seen == [(4, 10), (8, 10), (10, 10)]
    again = Counting(native)
    assert sample_texts(again, openings, HOT, 5, tmp_path / "cut.jsonl", quiet) == whole
    assert again.calls == 0
    with pytest.raises(UsageError, match="holds texts of another training"):
        sample_texts(native, [Opening("", "x")] * 10, HOT, 5, tmp_path / "cut.jsonl", quiet)


def test_computations_have_the_calculators_results(tmp_path: Path) -> None:
    """The witness: Python's own parser."""
    paths = save_calculating_trio(tmp_path)
    sampler = NativeSampler(open_training_base(paths["base"]), tmp_path / "work")
    sampler.use(paths["answer"])
    opening = Opening(Chat(paths["base"]).prompt(prompt_of(paths["answer"]), "How many?"))
    sampling = SamplingSettings(count=24, temperature=0.25, max_new_tokens=60)
    for calculator in (True, False):
        texts = [text.text for text in sampler.sample([opening], replace(sampling, calculator=calculator), seed=0)[0]]
        found = [(due(text[: at.end()]), text[at.end() :]) for text in texts for at in re.finditer("=", text)]
        right = [rest.startswith(result) for result, rest in found if result is not None and len(rest) >= len(result)]
        assert len(right) > 5
        assert all(right) is calculator
    sampler.close()


def test_a_prompt_that_fills_the_context_is_refused(native: NativeSampler, base: TrainingBase) -> None:
    reference = TransformersSampler(base, torch.device("cpu"))
    for sampler in (native, reference):
        with pytest.raises(ContextError, match="fills the model's context of 1,024"):
            sampler.sample([Opening("many words " * 600)], HOT, 0)


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"temperature": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        SamplingSettings(**wrong)  # type: ignore[arg-type]
