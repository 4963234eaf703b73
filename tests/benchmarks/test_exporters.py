"""The benchmark of exports: what its rounds come to, and that a real one runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoint import SHAPES, write_checkpoint


def load() -> Any:
    """The program, by its path: another `export` may be found by name."""
    path = Path(__file__).parents[2] / "benchmarks" / "export.py"
    specification = importlib.util.spec_from_file_location("benchmark_export", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # its dataclasses look their module up
    specification.loader.exec_module(module)
    return module


benchmark_export = load()


def figures(seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "processor_s": 1.0, "peak_rss_mb": 1.0, "size_mb": 1.0, "others": 0.0}


def test_a_ratio_is_that_to_the_fastest_peer_of_the_same_round() -> None:
    names = ("native", "llama.cpp Q4_0", "onnxruntime-genai")
    rounds = [dict(zip(names, map(figures, each), strict=True)) for each in ((4, 2, 8), (6, 8, 2), (1, 10, 20))]
    summary = {entry["export"]: entry for entry in benchmark_export.summarize(rounds)}
    assert summary["native"]["seconds"] == 4
    assert summary["native"]["ratio"] == pytest.approx(2.0)  # of 4 / 2, 6 / 2 and 1 / 10
    assert "ratio" not in summary["onnxruntime-genai"]


def test_what_failed_in_a_round_is_left_out() -> None:
    rounds = [{"native": figures(1), "onnx": figures(1)}, {"native": figures(1)}]
    assert [entry["export"] for entry in benchmark_export.summarize(rounds)] == ["native"]


def test_exports_are_measured_and_what_is_missing_is_named(tmp_path: Path) -> None:
    write_checkpoint(SHAPES["tiny"], tmp_path / "checkpoint")
    missing = {"optimum-intel": str(tmp_path / "no-python")}
    rounds, skipped = benchmark_export.compare(tmp_path / "checkpoint", ["native", "optimum-intel"], 1, 1, missing)
    assert set(rounds[0]) == {"native"}
    assert rounds[0]["native"]["size_mb"] > 0.5
    assert "no-python" in skipped["optimum-intel"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
