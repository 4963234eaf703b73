"""The whole comparison on a tiny model; and engines that are missing, broken, or crash."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import children
import machine
import numpy as np
import peers
import pytest

from edgereason.errors import EdgeReasonError, UsageError

PROGRAM = Path(peers.__file__)
FIGURES = {"prefill_tok_s", "decode_tok_s", "peak_rss_mb", "load_s"}


@pytest.fixture
def settings(tmp_path: Path) -> peers.Settings:
    return peers.Settings(peers.SHAPES["tiny"], tmp_path / "tiny", 1, 8, 2, {})


def program(path: Path, text: str) -> Path:
    """A stand-in for an interpreter."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_tiny_model_goes_all_the_way_through_two_engines(tmp_path: Path) -> None:
    engines = ["native"] + ["llama.cpp"] * (importlib.util.find_spec("llama_cpp") is not None)
    out, build = tmp_path / "results.json", tmp_path / "build"
    command = [sys.executable, PROGRAM, "--shape", "tiny", "--rounds", "2", "--threads", "1", "--prompt-tokens", "16"]
    command += ["--new-tokens", "4", "--repeats", "0", "--engines", *engines, "--json", out, "--build", build]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    results = json.loads(out.read_text())

    assert results["machine"]["read_gb_s"] > 0.1
    assert results["machine"]["int8_tops"] == max(results["machine"]["int8_tops_by_isa"].values())
    assert [each["engine"] for each in results["engines"]] == engines
    assert results["skipped"] == {}
    for each in results["engines"]:
        assert each.keys() >= FIGURES
        for figure in FIGURES:
            assert each[figure] > 0
            assert each[figure] == np.median([a_round[each["engine"]][figure] for a_round in results["rounds"]])
        size = sum(file.stat().st_size for file in (build / "tiny" / each["engine"]).glob("model.*"))
        assert 0.9 * size < each["bytes_per_token"] <= size  # nothing but the tensors is left out
        assert each["engine"] in result.stdout


def test_a_second_build_of_an_engine_is_measured_on_the_same_files(tmp_path: Path) -> None:
    out, build = tmp_path / "results.json", tmp_path / "build"
    command = [sys.executable, PROGRAM, "--shape", "tiny", "--rounds", "1", "--threads", "1", "--prompt-tokens", "16"]
    command += ["--new-tokens", "4", "--repeats", "0", "--engines", "native", "--json", out, "--build", build]
    result = subprocess.run([*command, "--python", f"native@other={sys.executable}"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    results = json.loads(out.read_text())
    assert [each["engine"] for each in results["engines"]] == ["native", "native@other"]
    assert [each["engine"] for each in results["ratios"]] == ["native@other"]
    assert not (build / "tiny" / "native@other").exists()


def test_conversions_are_kept(settings: peers.Settings) -> None:
    peers.write_checkpoint(settings.shape, settings.build / "checkpoint")
    first = peers.convert(settings, "native")
    written = (settings.build / "native" / "model.safetensors").stat().st_mtime_ns
    assert peers.convert(settings, "native") == first
    assert (settings.build / "native" / "model.safetensors").stat().st_mtime_ns == written


def test_each_round_has_prompts_of_its_own(tmp_path: Path, settings: peers.Settings) -> None:
    spy = program(tmp_path / "python", 'echo "$@" >> "$0.log"; echo {}')
    seen = peers.Settings(**{**vars(settings), "pythons": {"native": spy}})
    for number in range(3):
        peers.measure(seen, "native", seed=number)
    lines = (tmp_path / "python.log").read_text().splitlines()
    assert len({line.split("--seed ")[1] for line in lines}) == 3


def test_a_disturbed_run_is_repeated_and_the_least_disturbed_counts(
    settings: peers.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, 0.3, 0.4, 0.05])
    monkeypatch.setattr(peers, "_measure_once", lambda *_: {"others": next(shares)})
    patient = peers.Settings(**{**vars(settings), "repeats": 2})
    assert peers.measure(patient, "native", seed=0) == {"others": 0.3}
    assert peers.measure(patient, "native", seed=0) == {"others": 0.05}
    assert next(shares, None) is None


def test_work_of_others_is_noticed(tmp_path: Path, settings: peers.Settings) -> None:
    if not Path("/proc/stat").is_file():
        pytest.skip("only Linux tells")
    waits = peers.Settings(
        **{**vars(settings), "pythons": {"native": program(tmp_path / "python", "sleep 1; echo {}")}}
    )
    other = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        assert peers.measure(waits, "native", seed=0)["others"] > 0.3 / (os.cpu_count() or 1)
    finally:
        other.kill()
        other.wait()


def test_an_engine_that_is_not_installed_is_named_with_its_cure(tmp_path: Path, settings: peers.Settings) -> None:
    venv.create(tmp_path / "empty", with_pip=False)
    bare = peers.Settings(**{**vars(settings), "pythons": {"llama.cpp": tmp_path / "empty" / "bin" / "python"}})
    with pytest.raises(children.ChildError, match=r"not installed: No module named .*; pip install llama-cpp-python"):
        peers.convert(bare, "llama.cpp")
    assert not (settings.build / "llama.cpp").exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "measure ended with SIGSEGV"),
        (
            "echo Traceback >&2; echo 'ValueError: no such layer' >&2; exit 1",
            "measure failed: ValueError: no such layer",
        ),
        ("exit 7", "measure failed: no message"),
    ],
)
def test_an_engine_that_fails_says_why(tmp_path: Path, settings: peers.Settings, script: str, message: str) -> None:
    broken = program(tmp_path / "python", script)
    with pytest.raises(children.ChildError, match=message):
        peers.measure(peers.Settings(**{**vars(settings), "pythons": {"native": broken}}), "native", seed=0)


@pytest.mark.parametrize("choice", ["llama.cpp", "llama.cpp=/no/such/python", "other=/bin/sh", "other@old=/bin/sh"])
def test_an_interpreter_that_cannot_be_used_is_named(choice: str) -> None:
    with pytest.raises(UsageError, match="--python"):
        peers._pythons([choice])


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgeReasonError, match=r"C\+\+ compiler"):
        machine.measure(1, tmp_path / "build")


def test_what_a_compiler_complains_about_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path / "cxx", "echo out of registers >&2; exit 1")))
    with pytest.raises(EdgeReasonError, match="out of registers"):
        machine.measure(1, tmp_path / "build")
    assert not list((tmp_path / "build").iterdir())
