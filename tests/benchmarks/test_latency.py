"""The comparison of pipelines, from end to end on the smallest shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from latency import BASELINE, Pair, summarize

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "latency.py"


def test_runs_are_measured_on_the_given_number_of_tokens(tmp_path: Path) -> None:
    out, picture = tmp_path / "latency.json", tmp_path / "latency.png"
    command = [sys.executable, str(PROGRAM), "--pair", "tiny", "--rounds", "1", "--threads", "1"]
    command += ["--runs", BASELINE, "native, merged: no optimizations", "native, shared: all"]
    command += ["--build", str(tmp_path), "--json", str(out), "--plot", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    assert [run["name"] for run in results["runs"]] == [
        f"tiny: {name}" for name in (BASELINE, "native, merged: no optimizations", "native, shared: all")
    ]
    for run in results["runs"]:
        assert 0 < run["first_guidance_s"] < run["first_answer_s"] <= run["total_s"]
        assert run["handover_s"] < run["first_answer_s"]
        assert run["peak_rss_mb"] > 10
        assert run["load_s"] > 0
    [round_] = results["pairs"][0]["rounds"]
    assert {name: each["pieces"] for name, each in round_.items()} == dict.fromkeys(round_, 256.0)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_figures_are_medians_and_ratios_are_within_a_round() -> None:
    def figures(total: float) -> dict[str, float]:
        return dict.fromkeys(
            ("first_guidance_s", "first_answer_s", "handover_s", "total_s", "peak_rss_mb", "load_s"), total
        )

    rounds = [{BASELINE: figures(base), "ours": figures(ours)} for base, ours in ((1, 0.5), (10, 2), (100, 40))]
    summary = summarize(rounds, [BASELINE, "ours"])
    assert [run["total_s"] for run in summary["runs"]] == [10, 2]
    assert summary["ratios"][1]["total_s"] == pytest.approx(0.4)


def test_questions_differ_from_round_to_round(tmp_path: Path) -> None:
    pair = Pair("random", tmp_path, tmp_path, 128)
    assert not set(pair.questions(0)) & set(pair.questions(1))
