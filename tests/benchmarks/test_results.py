"""The page of results: its figures are those of the evaluations, and what has been measured is not measured again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from places import WORD_PROBLEMS
from result_lines import Found, Line, Table
from result_page import page

from edgereason.evaluation import Accuracy, EvaluationReport, Problem, Row, compare

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "results.py"


def report(pattern: str) -> EvaluationReport:
    rows = (Row(f"q{number}", "", "", None, "1", mark == "+") for number, mark in enumerate(pattern))
    return EvaluationReport({}, Accuracy(tuple(rows)), complete=True)


def test_the_page_has_every_line_with_its_interval_and_its_difference() -> None:
    two, one = report("+" * 80 + "-" * 20), report("+" * 70 + "-" * 30)
    compared = compare(one.accuracy.rows, two.accuracy.rows, "two")
    lines = [Line("two", lambda work: work), Line("one", lambda work: work, against="two")]
    table = Table("Stages", "What it is.", {"set": [Problem("q", "1")] * 100}, lines)
    text = page([(table, {"set": [Found(lines[0], two, None), Found(lines[1], one, compared)]})])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert "## Stages" in text
    assert "100 problems, `set`" in text
    figures = two.accuracy
    assert cells[2] == ["two", f"80.0% ({100 * figures.low:.1f} to {100 * figures.high:.1f})", ""]
    assert cells[3][0] == "one"
    assert re.fullmatch(r"-10\.0 points \(-1\d\.\d to -[45]\.\d\) to two, p = 0\.002", cells[3][2])


def test_the_program_measures_writes_and_remembers(tmp_path: Path) -> None:
    out, work = tmp_path / "results.md", tmp_path / "work"
    command = [sys.executable, str(PROGRAM), "--models", str(WORD_PROBLEMS), "--tables", "stages", "--limit", "4"]
    command += ["--threads", "1", "--work", str(work), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    text = out.read_text()
    reports = {path: path.stat().st_mtime_ns for path in (work / "reports").iterdir()}
    found = {json.loads(path.read_text())["settings"]["mode"]: json.loads(path.read_text()) for path in reports}
    assert f"| the answer model alone | {100 * found['answer-only']['accuracy']:.1f}%" in text
    assert f"| the guidance model alone | {100 * found['guidance-only']['accuracy']:.1f}%" in text
    out.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert out.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in (work / "reports").iterdir()} == reports
