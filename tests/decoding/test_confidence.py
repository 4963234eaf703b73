"""How sure a model is of its text, and what follows from it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import HELD_OUT
from typer.testing import CliRunner

from edgereason import Optimizations, load
from edgereason.bundle import Sampling
from edgereason.cli.app import app
from edgereason.cli.display.answers import OUTSIDE
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.loop import DecodeRequest, decode_ids

QUESTIONS = [json.loads(line)["question"] for line in HELD_OUT.read_text().splitlines()[:8]]

rows = st.lists(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=40), min_size=1, max_size=6)


@given(rows, st.integers(0, 999))
@settings(deadline=None)
def test_it_is_the_geometric_mean_of_the_tokens_probabilities(rows: list[list[float]], seed: int) -> None:
    confidence, probabilities = Confidence(), []
    for values in rows:
        logits, token = np.array(values, np.float32), seed % len(values)
        confidence.add(logits, token)
        weights = np.exp(np.float64(logits) - logits.max())
        probabilities.append(weights[token] / weights.sum())
    assert confidence.value == pytest.approx(math.prod(probabilities) ** (1 / len(probabilities)), rel=1e-5)


def test_of_no_tokens_there_is_none() -> None:
    assert Confidence().value is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_drawn_token_counts_the_one_that_ends_the_text_too(
    native_bundle: Path, rows_as_if_alone: None, temperature: float
) -> None:
    with load(native_bundle) as reasoner:
        model = reasoner.models["guidance"]
        prompt = model.tokenizer.encode("How many are left?")
        confidence = Confidence()
        request = DecodeRequest(prompt, 40, Sampling(temperature, seed=3), frozenset({97}), confidence=confidence)
        session = model.session()
        written = list(decode_ids(session, request))
        session.close()
        logits = np.float64(model.logits(prompt + written))
        ends = [97] if len(written) < 40 else []
        drawn = logits[len(prompt) - 1 : len(prompt) - 1 + len(written) + len(ends)]
        chosen = drawn[range(len(drawn)), written + ends] - np.log(np.exp(drawn).sum(axis=1))
        assert confidence.value == pytest.approx(np.exp(chosen.mean()), rel=1e-3)


def test_asking_streaming_and_batches_agree(rows_as_if_alone: None) -> None:
    with load() as reasoner, load(optimizations=Optimizations.without(["all"])) as plain:
        asked = [reasoner.ask(question).confidence for question in QUESTIONS]
        assert all(confidence is not None and 0.5 < confidence <= 1 for confidence in asked)
        assert [plain.ask(question).confidence for question in QUESTIONS] == asked
        assert [outcome.result.confidence for outcome in plain.batch(QUESTIONS) if outcome.result] == asked


def test_where_no_guidance_is_written_nothing_is_said() -> None:
    with load() as reasoner:
        for guidance in (False, "Steps: add 5 to 12."):
            result = reasoner.ask(QUESTIONS[0], guidance=guidance)
            assert (result.confidence, result.in_domain) == (None, None)
        assert reasoner.ask(QUESTIONS[0]).in_domain is not None


def test_a_bundle_that_asks_for_no_confidence_says_nothing_of_its_domain(native_bundle: Path) -> None:
    with load(native_bundle) as reasoner:
        result = reasoner.ask(QUESTIONS[0], max_new_tokens=4)
        assert result.confidence is not None
        assert result.in_domain is None


@pytest.fixture
def asking_for(native_bundle: Path, tmp_path: Path):
    """A bundle that asks for some confidence."""

    def bundle(least: float) -> Path:
        path = shutil.copytree(native_bundle, tmp_path / str(least), dirs_exist_ok=True)
        manifest = json.loads((path / "bundle.json").read_text())
        manifest["stages"]["guidance"]["prompt"]["min_confidence"] = least
        (path / "bundle.json").write_text(json.dumps(manifest))
        return path

    return bundle


def test_a_question_with_less_confidence_than_the_bundle_asks_for_is_outside(asking_for) -> None:
    limits = {"guidance": 8, "answer": 4}
    with load(asking_for(0.0)) as reasoner:
        confidence = reasoner.ask("How many?", max_new_tokens=limits).confidence
        assert confidence is not None
        assert 0 < confidence < 1
    for least, inside in ((0.0, True), (confidence * 0.99, True), (confidence * 1.01, False), (1.0, False)):
        with load(asking_for(least)) as reasoner:
            assert reasoner.ask("How many?", max_new_tokens=limits).in_domain is inside
            (outcome,) = reasoner.batch(["How many?"], max_new_tokens=limits)
            assert outcome.result is not None
            assert outcome.result.in_domain is inside


def test_the_program_says_so(asking_for) -> None:
    run = CliRunner().invoke
    for least, said in ((0.0, False), (1.0, True)):
        arguments = ["--bundle", str(asking_for(least)), "--max-tokens", "4"]
        assert (OUTSIDE in run(app, ["ask", "How many?", *arguments]).output) is said
        quiet = run(app, ["ask", "How many?", "--quiet", *arguments])
        assert (OUTSIDE in quiet.stderr) is said
        assert OUTSIDE not in quiet.stdout
        assert json.loads(run(app, ["ask", "How many?", "--json", *arguments]).stdout)["in_domain"] is not said
        chatted = run(app, ["chat", arguments[1], "--max-tokens", "4"], input="How many?\n/quit\n")
        assert (OUTSIDE in chatted.output) is said
        shown = " ".join(run(app, ["inspect", arguments[1]]).output.split())
        assert f"out of domain below a confidence of {least}" in shown
