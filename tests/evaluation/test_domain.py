"""The threshold between what a model knows and what it does not, against its definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgereason.cli.app import app
from edgereason.errors import UsageError
from edgereason.evaluation.domain import confidences, find_domain
from edgereason.export import export
from edgereason.pipeline.reasoner import load

shares = st.floats(0, 1).map(lambda share: round(share, 5))
known = st.lists(shares, min_size=100, max_size=140)
others = st.lists(shares, min_size=1, max_size=60)


@given(known, others, st.sampled_from([0.0, 0.01, 0.02, 0.5]))
@settings(deadline=None, max_examples=30)
def test_no_more_known_questions_fall_below_than_was_asked_for(
    known: list[float], others: list[float], rate: float
) -> None:
    domain = find_domain(known, {"others": others}, rate)
    threshold = domain.min_confidence
    assert sum(confidence < threshold for confidence in known) <= rate * len(known)
    # With the next value of a known question, more would.
    higher = [confidence for confidence in known if confidence > threshold + 1e-5]
    assert not higher or sum(confidence < min(higher) for confidence in known) > rate * len(known)
    assert domain.others["others"].detected == sum(confidence < threshold for confidence in others) / len(others)


@given(known, others)
@settings(deadline=None, max_examples=30)
def test_auroc_counts_the_pairs_that_are_in_order(known: list[float], others: list[float]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in known for b in others]
    assert find_domain(known, {"o": others}).others["o"].auroc == pytest.approx(sum(pairs) / len(pairs))


def test_false_alarms_are_those_of_questions_that_did_not_set_the_threshold() -> None:
    random = np.random.default_rng(1)
    found = find_domain(random.beta(50, 1, 20_000).tolist(), {}, 0.02)
    assert found.false_alarms == pytest.approx(0.02, abs=0.004)
    # Halves that have nothing in common: one of them falls below the other's threshold entirely.
    halves = [0.9 + number * 1e-4 if number % 2 else 0.5 for number in range(200)]
    assert find_domain(halves, {}, 0.02).false_alarms == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("count", "others", "rate", "message"),
    [(99, [0.5], 0.02, "99 known"), (100, [], 0.02, "others has no"), (100, [0.5], 1.0, "false-alarms is 1.0")],
)
def test_what_no_threshold_follows_from_is_refused(count: int, others: list[float], rate: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_domain([0.9] * count, {"others": others}, rate)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions of quite other things, in the form of a data set."""
    path = tmp_path_factory.mktemp("texts") / "other.jsonl"
    things = ["the moon", "a violin", "the king of France", "democracy", "rain", "a good friend", "iron", "sleep"]
    asked = [f"{begin} {thing}?" for begin in ("Why is there", "Who has ever seen", "What is") for thing in things]
    path.write_text("".join(json.dumps({"question": question, "result": "?"}) + "\n" for question in asked))
    return path


def test_the_example_tells_its_problems_from_other_questions(texts: Path, rows_as_if_alone: None) -> None:
    questions = [json.loads(line)["question"] for line in texts.read_text().splitlines()]
    with load() as reasoner:
        done: list[tuple[int, int]] = []
        lower = confidences(reasoner, questions, report=lambda *counts: done.append(counts))
        assert done[-1] == (len(questions), len(questions))
        assert lower == [reasoner.ask(question, answer=False).confidence for question in questions]
    asked = ["calibrate", "--known", "held-out", "--limit", "200", "--other", str(texts)]
    run = CliRunner().invoke(app, [*asked, "--json"])
    domain = json.loads(run.stdout)
    assert domain["known"] == 200
    assert domain["others"][str(texts)]["detected"] > 0.9
    assert max(lower) < 1 > domain["min_confidence"] > 0.9
    shown = CliRunner().invoke(app, asked).output
    assert f"min_confidence {domain['min_confidence']:.6f}" in shown


def test_an_export_takes_the_threshold_from_the_adapter_or_from_its_option(
    trio: dict[str, Path], tmp_path: Path
) -> None:
    paths = [trio["base"], trio["guidance"], trio["answer"]]
    assert export(*paths, tmp_path / "none", verify=False).stages["guidance"].prompt.min_confidence is None
    given_ = export(*paths, tmp_path / "given", verify=False, min_confidence=0.25)
    assert given_.stages["guidance"].prompt.min_confidence == 0.25
    assert given_.stages["answer"].prompt.min_confidence is None
    with pytest.raises(UsageError, match="min-confidence is 2"):
        export(*paths, tmp_path / "bad", verify=False, min_confidence=2.0)
