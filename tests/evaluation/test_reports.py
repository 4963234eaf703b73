"""Files of evaluations: what was interrupted goes on where it stopped, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import HELD_OUT

from edgereason import Reasoner, UsageError
from edgereason.evaluation import EvaluationSettings, Problem, Row, compare, evaluate, read_problems, read_report
from edgereason.evaluation import reports as module


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return read_problems(HELD_OUT, 20)


def test_a_report_is_read_as_it_was_written(reasoner: Reasoner, problems: list[Problem], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    report = evaluate(reasoner, problems, data="held", path=path)
    value = json.loads(path.read_text())
    assert {"accuracy", "low", "high", "correct", "total", "rows"} <= set(value)
    assert (value["correct"], value["total"], value["complete"]) == (report.accuracy.correct, 20, True)
    assert value["settings"]["engine"] == "native"
    assert sum(each["total"] for each in value["structures"].values()) == 20
    assert read_report(path) == report
    assert [each.name for each in path.parent.iterdir()] == ["report.json"]


@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_interrupted_and_resumed_is_as_if_in_one_go(
    reasoner: Reasoner, problems: list[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float
) -> None:
    monkeypatch.setattr(module, "_EVERY_S", every_s)
    whole = evaluate(reasoner, problems)
    path = tmp_path / "report.json"

    def interrupt(rows: list[Row]) -> None:
        if len(rows) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(reasoner, problems, path=path, report=interrupt)
    begun = read_report(path)
    assert not begun.complete
    assert begun.accuracy.rows == whole.accuracy.rows[:7]
    counts: list[int] = []
    resumed = evaluate(reasoner, problems, path=path, resume=True, report=lambda rows: counts.append(len(rows)))
    assert counts == list(range(7, 21))
    assert resumed == read_report(path) == whole


def test_a_file_of_something_else_is_refused_and_left_alone(
    reasoner: Reasoner, problems: list[Problem], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    evaluate(reasoner, problems[:5], data="held", path=path)
    written = path.read_bytes()

    def resume(asked: list[Problem], **arguments: Any) -> None:
        evaluate(reasoner, asked, path=path, resume=True, **{"data": "held", **arguments})

    with pytest.raises(UsageError, match="its mode differs"):
        resume(problems[:5], way=EvaluationSettings("answer-only"))
    with pytest.raises(UsageError, match="its calculator differs"):
        resume(problems[:5], way=EvaluationSettings(calculator=False))
    with pytest.raises(UsageError, match="its data differs"):
        resume(problems[:5], data="gsm8k")
    for others in (problems[:4], problems[1:6], [replace(problems[0], expected="0"), *problems[1:5]]):
        with pytest.raises(UsageError, match="rows of other problems"):
            resume(others)
    assert path.read_bytes() == written
    for nonsense in ("", "{}", '{"rows": [7], "settings": {}}'):
        path.write_text(nonsense)
        with pytest.raises(UsageError, match=r"report\.json"):
            resume(problems[:5])
        assert path.read_text() == nonsense


def test_two_ways_are_compared_in_the_report(reasoner: Reasoner, problems: list[Problem], tmp_path: Path) -> None:
    two = evaluate(reasoner, problems)
    path = tmp_path / "report.json"
    one = evaluate(reasoner, problems, EvaluationSettings("guidance-only"), path=path, against=("two stages", two))
    assert one.against == compare(one.accuracy.rows, two.accuracy.rows, "two stages")
    assert json.loads(path.read_text())["against"]["difference"] == one.accuracy.accuracy - two.accuracy.accuracy
    with pytest.raises(UsageError, match=r"two stages holds 20 rows, which are not of these 19 problems"):
        evaluate(reasoner, problems[1:], against=("two stages", two))


def test_what_cannot_be_written_is_named(reasoner: Reasoner, problems: list[Problem], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        evaluate(reasoner, problems[:1], path=tmp_path / "file" / "report.json")


def test_several_bundles_have_a_file_each() -> None:
    a, b = Path("x/a"), Path("y/b")
    assert module.paths_of([a], Path("r.json")) == [Path("r.json")]
    assert module.paths_of([a, b], Path("r")) == [Path("r/a.json"), Path("r/b.json")]
    assert module.paths_of([a, b], None) == [None, None]
    with pytest.raises(UsageError, match="Two of the bundles are called a"):
        module.paths_of([a, Path("y/a")], Path("r"))
