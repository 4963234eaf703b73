"""How fast a bundle is: figures that belong together, and the user's choice of threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgereason import benchmark, configuration
from edgereason.configuration import Configuration
from edgereason.errors import EdgeReasonError, UsageError
from edgereason.hardware import fitting_threads

PROGRAM = [sys.executable, "-m", "edgereason"]


@pytest.fixture
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "config" / "config.json"
    monkeypatch.setenv("EDGEREASON_CONFIG", str(file))
    return file


def test_the_figures_of_a_bundle_belong_together() -> None:
    found = benchmark.measure_speed(None, questions=2, threads=1)
    assert (found.engine, found.threads, found.questions) == ("native", 1, 2)
    assert 0 < found.total.p50 <= found.total.p95
    for stage in found.stages.values():
        assert stage.prefill_tok_s > stage.decode_tok_s > 0
        assert 0 < stage.ttft.p50 < found.total.p95
    (first, ended), (began, done) = found.timeline["guidance"], found.timeline["answer"]
    assert 0 < first < ended < began < done
    assert found.peak_rss_mb > 10
    assert benchmark.BundleSpeed.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_cannot_be_measured_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EdgeReasonError, match="is not a bundle"):
        benchmark.measure_speed(tmp_path)
    with pytest.raises(UsageError, match="questions is 0"):
        benchmark.measure_speed(None, questions=0)


def test_the_command_compares_bundles_and_draws_them(native_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    command = [*PROGRAM, "bench", "--compare", str(native_bundle), "--questions", "1", "--rounds", "1"]
    done = subprocess.run([*command, "--json", str(out), "--plot", str(picture)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hand-over, ms" in done.stdout
    assert [Path(each["bundle"]).name for each in json.loads(out.read_text())] == ["default_bundle", "native"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_best_number_of_threads_is_kept(own_configuration: Path) -> None:
    command = [*PROGRAM, "bench", "--tune", "--yes"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<- best" in done.stdout
    kept = json.loads(own_configuration.read_text())["threads"]
    assert configuration.threads(None) == kept
    assert 1 <= kept <= fitting_threads()


def test_a_choice_is_read_and_nonsense_refused(own_configuration: Path) -> None:
    assert configuration.read() == Configuration()
    configuration.write(Configuration(3))
    assert (configuration.threads(None), configuration.threads(2), configuration.read()) == (3, 2, Configuration(3))
    for nonsense in ("{", '{"threads": 0}', '{"threads": "2"}', '{"other": 1}'):
        own_configuration.write_text(nonsense)
        configuration._read.cache_clear()
        with pytest.raises(UsageError, match=r"config\.json"):
            configuration.threads(None)
    own_configuration.unlink()
    configuration._read.cache_clear()
    assert configuration.threads(None) is None
