"""Problems asked in every way: the transcripts of asking each alone, judged by the data set's rules."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from computations import save_calculating_trio
from places import HELD_OUT

from edgereason import Reasoner, UsageError, load
from edgereason.evaluation import EvaluationSettings, Problem, evaluate, measure_accuracy, read_problems, same_result
from edgereason.export import export
from edgereason.problems.extraction import extract


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return read_problems(HELD_OUT, 30)


def test_problems_asked_together_have_the_transcripts_of_asking_each(
    reasoner: Reasoner, problems: list[Problem]
) -> None:
    asked = [*problems, Problem("What is 2 + 2?", "unknown")]
    report = measure_accuracy(reasoner, asked, batch_size=8)
    alone = [reasoner.ask(problem.text, temperature=0.0) for problem in asked]
    assert [(row.question, row.guidance, row.answer) for row in report.rows] == [
        (result.question, result.guidance, result.answer) for result in alone
    ]
    assert [(row.expected, row.structure) for row in report.rows] == [(each.expected, each.structure) for each in asked]
    assert [row.correct for row in report.rows] == [row.final == row.expected for row in report.rows]
    with pytest.raises(UsageError, match="empty"):
        measure_accuracy(reasoner, [*problems[:3], Problem(" ", "1")])


def test_one_stage_alone(reasoner: Reasoner, problems: list[Problem]) -> None:
    answers = measure_accuracy(reasoner, problems, EvaluationSettings("answer-only")).rows
    alone = [reasoner.ask(problem.text, guidance=False, temperature=0.0).answer for problem in problems]
    assert [(row.guidance, row.answer) for row in answers] == [("", answer) for answer in alone]
    rows = measure_accuracy(reasoner, problems, EvaluationSettings("guidance-only")).rows
    assert all(row.guidance and not row.answer for row in rows)
    assert [row.final for row in rows] == [
        extract(problem, row.guidance) for problem, row in zip(problems, rows, strict=True)
    ]


def test_a_guidance_that_states_the_result_counts_as_right_alone(reasoner: Reasoner, problems: list[Problem]) -> None:
    """The last number of guidance, made the expected one."""
    rows = measure_accuracy(reasoner, problems[:4], EvaluationSettings("guidance-only")).rows
    stated = [replace(each, expected=str(row.final)) for each, row in zip(problems, rows, strict=False)]
    assert all(row.correct for row in measure_accuracy(reasoner, stated, EvaluationSettings("guidance-only")).rows)


def test_votes_are_on_the_results_that_the_data_set_s_rules_find(native_bundle: Path) -> None:
    """A random model names choices now and then, where no rule for numbers finds a result."""
    problem = Problem("Where?", "A", "choice", ("a", "e", "o"))
    with load(native_bundle) as noise:
        way = EvaluationSettings(samples=15, seed=3, max_new_tokens=12)
        (row,) = measure_accuracy(noise, [problem], way).rows
        (outcome,) = noise.batch([problem.text], samples=15, seed=3, max_new_tokens=12)
    votes = Counter(extract(problem, result.answer) for result in outcome.samples)
    del votes[None]
    assert len(outcome.samples) == 15
    assert len(votes) > 1
    assert votes[row.final] == max(votes.values())


def test_a_problem_that_does_not_fit_is_wrong_and_says_why(native_bundle: Path) -> None:
    with load(native_bundle) as small:
        rows = measure_accuracy(
            small, [Problem("why? " * 500, "1"), Problem("Who?", "1")], EvaluationSettings(max_new_tokens=3)
        ).rows
    assert not rows[0].correct
    assert "too many for the guidance model's context of 256" in rows[0].error
    assert rows[1].error == ""


def test_programs_run_only_where_that_is_allowed(reasoner: Reasoner) -> None:
    """The answer becomes part of a string, since the example writes no Python; tests then look at that string."""
    question = '# Tom has 12 apples and eats 5. How many apples does he have left?\ndef f():\n    return """'
    (row,) = measure_accuracy(reasoner, [Problem(question, "pass", "code")], allow_code=True).rows
    answer = row.answer
    right, wrong = (Problem(question, f'"""\n\nassert ({answer!r} in f()) is {each}', "code") for each in (True, False))
    with pytest.raises(UsageError, match="by running what the model writes"):
        measure_accuracy(reasoner, [right])
    with pytest.raises(UsageError, match="Programs cannot be voted on"):
        measure_accuracy(reasoner, [right], EvaluationSettings(samples=3), allow_code=True)
    assert [row.correct for row in measure_accuracy(reasoner, [right, wrong], allow_code=True).rows] == [True, False]


def test_options_out_of_range_are_named(reasoner: Reasoner, problems: list[Problem]) -> None:
    with pytest.raises(UsageError, match="no mode 'three-stage'"):
        EvaluationSettings("three-stage")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="samples is 0"):
        measure_accuracy(reasoner, problems, EvaluationSettings(samples=0))
    assert same_result("7.0", "7")


def test_the_calculator_is_on_as_the_bundle_says_or_as_asked(tmp_path: Path) -> None:
    paths = save_calculating_trio(tmp_path)
    export(paths["base"], paths["guidance"], paths["answer"], tmp_path / "bundle", verify=False)
    asked = [Problem(f"How many of {count}?", "1") for count in range(8)]

    def results(calculator: bool | None) -> tuple[list[bool], bool]:
        way = EvaluationSettings("answer-only", max_new_tokens=100, calculator=calculator)
        report = evaluate(opened, asked, way)
        return [bool(re.search("=[^=]+>>", row.answer)) for row in report.accuracy.rows], report.settings["calculator"]

    with load(tmp_path / "bundle", threads=1) as opened:
        assert results(None) == results(True)
        computed, on = results(True)
        assert (any(computed), on) == (True, True)
        assert results(False) == ([False] * 8, False)
