"""The default model's training in miniature, and the texts that its base reads."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgereason.problems.word_problems import UNKNOWN, held_out
from edgereason.problems.worked_problem import question_key
from edgereason.training.default_model.corpus import belongings, computations, sample_text
from edgereason.training.default_model.from_scratch import STAGE_NAMES, TrainingPlan, train_from_scratch

SMALL = TrainingPlan(
    hidden_size=256,
    intermediate_size=128,
    layers=2,
    key_value_heads=2,
    base_steps=4,
    base_batch=2,
    guidance_steps=2,
    answer_steps=2,
    adapter_batch=2,
    base_length=64,
    compiled=False,
    texts=2000,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("default model")
    train_from_scratch(out / "whole", 0, out / "work", SMALL)
    return out


def test_base_adapters_and_held_out_problems_are_written(made: Path) -> None:
    for stage in STAGE_NAMES:
        assert json.loads((made / "whole" / stage / "prompt.json").read_text())["history"] is False
        assert (made / "whole" / stage / "adapter_model.safetensors").exists()
    structures = {
        json.loads(line)["structure"] for line in (made / "whole" / "held_out.jsonl").read_text().splitlines()
    }
    assert structures
    assert not structures & {problem.structure for problem in held_out(0, 500, UNKNOWN)}


def test_one_stage_after_the_other_is_the_same_as_all(made: Path) -> None:
    for stage in STAGE_NAMES:
        train_from_scratch(made / "pieces", 0, made / "work in pieces", SMALL, [stage])
    for stage in STAGE_NAMES:
        whole, pieces = (load_file(made / name / stage / "adapter_model.safetensors") for name in ("whole", "pieces"))
        assert whole.keys() == pieces.keys()
        assert all((whole[name] == pieces[name]).all() for name in whole)


def test_computations_are_right() -> None:
    for seed in range(200):
        for line in computations(random.Random(seed)).splitlines():
            left, operator, right, result = re.fullmatch(r"(\d+)([-+*/])(\d+) = <<\1\2\3=(\d+)>>\4", line).groups()  # type: ignore[union-attr]
            a, b = Fraction(left), Fraction(right)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operator] == int(result) <= 10_000


def test_a_question_is_read_and_what_follows_it_is_learned() -> None:
    rng = random.Random(0)
    texts = [sample_text(rng, ()) for _ in range(200)]
    asked = [text[0] for text in texts if "####" in text[1]]
    assert len(asked) > 100
    assert all(read.endswith(("?", ".")) for read in asked)
    accounts = [text[1] for text in texts if text[0].startswith("Given: ")]
    assert accounts
    assert all("<<" in work and "####" not in work for work in accounts)


def test_belongings_ask_for_what_people_have() -> None:
    for seed in range(100):
        given, *parts = belongings(random.Random(seed))
        has = dict(re.findall(r"(\w+) (?:has|had|owns) (\d+)", given))
        assert 2 <= len(has) <= 6
        questions = [given, *parts[1::2]]
        for asked, count in zip(questions[:-1], parts[::2], strict=True):
            assert count == f" {has[re.findall(r'of (.+):$', asked)[0]]}\n"


def test_the_corpus_never_shows_an_excluded_question() -> None:
    exclude = {question_key(problem.question) for problem in held_out(0, 200)}
    rng, text = random.Random(0), ""
    for _ in range(3000):
        text += " " + question_key("".join(sample_text(rng, exclude)))
    assert not any(question in text for question in exclude)
