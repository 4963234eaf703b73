"""Medians, ratios and fractions, against numpy and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import report
from hypothesis import given
from hypothesis import strategies as st
from machine import Limits

ENGINES = {"native": 300_000_000, "llama.cpp": 350_000_000}
PRODUCTS = 358_000_000
positive = st.floats(1e-3, 1e6)
figures = st.fixed_dictionaries(dict.fromkeys(report.FIGURES, positive))
rounds = st.lists(st.fixed_dictionaries(dict.fromkeys(ENGINES, figures)), min_size=1, max_size=7)


def limits(count: int, read: float = 30.0, tops: float = 2.0) -> list[Limits]:
    return [Limits(read, read / 2, {"avx2": tops / 4, "avx512vnni": tops})] * count


@given(rounds)
def test_figures_are_medians_and_ratios_medians_of_each_rounds(measured: list[dict[str, dict[str, float]]]) -> None:
    results = report.summarize(measured, limits(len(measured)), ENGINES, PRODUCTS)
    assert [each["engine"] for each in results["engines"]] == list(ENGINES)
    table = {
        name: np.array([[each[name][figure] for figure in report.FIGURES] for each in measured]) for name in ENGINES
    }
    for each in results["engines"]:
        np.testing.assert_allclose([each[name] for name in report.FIGURES], np.median(table[each["engine"]], axis=0))
    (ratio,) = results["ratios"]
    expected = np.median(table["native"] / table["llama.cpp"], axis=0)
    np.testing.assert_allclose([ratio[name] for name in ("prefill", "decode", "peak", "load")], expected)


def test_a_round_that_is_slow_for_all_does_not_change_the_ratio() -> None:
    ours, theirs = (dict.fromkeys(report.FIGURES, speed) for speed in (6.0, 2.0))
    slow = {
        name: {key: value / 5 for key, value in each.items()}
        for name, each in (("native", ours), ("llama.cpp", theirs))
    }
    results = report.summarize([{"native": ours, "llama.cpp": theirs}, slow], limits(2), ENGINES, PRODUCTS)
    assert results["ratios"][0]["decode"] == pytest.approx(3)


def test_fractions_are_of_what_the_machine_reads_and_multiplies() -> None:
    measured = [{"native": dict.fromkeys(report.FIGURES, 50.0)}]
    (engine,) = report.summarize(measured, limits(1), {"native": 300_000_000}, 400_000_000)["engines"]
    assert engine["decode_of_read_rate"] == pytest.approx(0.5)  # 50 times 0.3 of 30 GB
    assert engine["prefill_of_int8_rate"] == pytest.approx(0.02)  # 50 times 0.8 of 2,000 billion operations


def test_the_machines_limits_are_the_highest_of_all_rounds() -> None:
    measured = [{"native": dict.fromkeys(report.FIGURES, 50.0)}] * 3
    seen = [*limits(1, 10.0, 1.0), *limits(1, 30.0, 2.0), *limits(1, 20.0, 1.5)]
    machine = report.summarize(measured, seen, {"native": 1}, 1)["machine"]
    assert (machine["read_gb_s"], machine["int8_tops"]) == (30.0, 2.0)
    assert machine["int8_tops_by_isa"] == {"avx2": 0.5, "avx512vnni": 2.0}


def test_the_table_says_when_others_disturbed(capsys: pytest.CaptureFixture[str]) -> None:
    measured = [{"native": {**dict.fromkeys(report.FIGURES, 50.0), "others": share}} for share in (0.1, 0.4, 0.9)]
    results = report.summarize(measured, limits(3), {"native": 1}, 1)
    described = {"shape": "tiny", "threads": 2, "prompt_tokens": 256, "new_tokens": 64}
    report.show({**described, **results, "skipped": {}})
    assert "40%" in capsys.readouterr().out


def test_an_unknown_cpu_has_no_int8_rate() -> None:
    measured = [{"native": dict.fromkeys(report.FIGURES, 50.0)}]
    results = report.summarize(measured, [Limits(30, 30, {})], {"native": 1}, 1)
    assert results["machine"]["int8_tops"] == 0
    assert results["engines"][0]["prefill_of_int8_rate"] is None


def test_results_are_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    report.write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        report.write_json({"a": object()}, path)
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_table_names_engines_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    measured = [{name: dict.fromkeys(report.FIGURES, 50.0) for name in ENGINES}] * 3
    results = report.summarize(measured, limits(3), ENGINES, PRODUCTS)
    described = {"shape": "tiny", "threads": 2, "prompt_tokens": 256, "new_tokens": 64}
    report.show({**described, **results, "skipped": {"openvino-genai": "not installed: [openvino]"}})
    printed = capsys.readouterr().out
    for text in ("native", "llama.cpp", "1.00x", "30.0 GB/s", "openvino-genai: not installed: [openvino]"):
        assert text in printed


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    measured = [{name: dict.fromkeys(report.FIGURES, speed) for name in ENGINES} for speed in (40.0, 50.0, 60.0)]
    results = report.summarize(measured, limits(3), ENGINES, PRODUCTS)
    described = {"shape": "tiny", "threads": 2, "prompt_tokens": 256, "new_tokens": 64}
    report.plot({**described, **results}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
