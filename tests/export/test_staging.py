"""Bundles under way: what is left by an export that ends badly, and what the next one finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgereason.bundle import STAGES, Bundle
from edgereason.errors import ExportError
from edgereason.export import export
from edgereason.export.staging import staged


def write(out: Path, log: list[str], stop_at: str = "", key: object = "key", **options: Any) -> None:
    """Write two steps, each one file; raises KeyboardInterrupt in the middle of the step `stop_at`."""
    with staged(out, key, **options) as staging:
        for step in ("first", "second"):

            def run(step: str = step) -> dict[str, Any]:
                log.append(step)
                assert list((staging.path / step).iterdir()) == []  # nothing of an interrupted try
                (staging.path / step / "half").write_text("half")
                if step == stop_at:
                    raise KeyboardInterrupt
                (staging.path / step / "half").rename(staging.path / step / "whole")
                return {"step": step}

            assert staging.once(step, run) == {"step": step}


def files(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def interrupted(out: Path, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(out, [], stop_at="second", **options)


def test_a_complete_bundle_is_all_there_is(tmp_path: Path) -> None:
    write(tmp_path / "out", [])
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_with_resume_finished_steps_are_not_repeated(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()
    log: list[str] = []
    write(tmp_path / "out", log, resume=True)
    assert log == ["second"]
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


@pytest.mark.parametrize("options", [{"key": "other", "resume": True}, {}], ids=["other inputs", "without resume"])
def test_what_cannot_be_resumed_is_removed(tmp_path: Path, options: dict[str, Any]) -> None:
    interrupted(tmp_path / "out", resume=True)
    log: list[str] = []
    write(tmp_path / "out", log, **options)
    assert log == ["first", "second"]
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


def test_work_in_pieces_survives_until_its_step_is_done(tmp_path: Path) -> None:
    def layers(stop: bool) -> list[str]:
        made = []
        with staged(tmp_path / "out", "key", resume=True) as staging:

            def run() -> dict[str, Any]:
                work = staging.work("stage")
                for name in ("layer-0", "layer-1"):
                    if not (work / name).exists():
                        (work / name).write_text("done")
                        made.append(name)
                        if stop:
                            raise KeyboardInterrupt
                return {}

            staging.once("stage", run)
        return made

    with pytest.raises(KeyboardInterrupt):
        layers(stop=True)
    assert layers(stop=False) == ["layer-1"]
    assert files(tmp_path) == []


def test_a_killed_export_is_resumed_and_a_running_one_left_alone(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from edgereason.export.staging import staged
with staged(Path(sys.argv[1]), "key") as staging:
    staging.once("first", lambda: {"made": "before"})
    print("ready", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for resume in (False, True):
            with pytest.raises(ExportError, match="Another export is writing"), staged(tmp_path / "out", "key", resume):
                pass
        assert len(list(tmp_path.iterdir())) == 1  # it is still there
        os.kill(child.pid, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    with staged(tmp_path / "out", "key", resume=True) as staging:
        assert staging.once("first", lambda: {"made": "again"}) == {"made": "before"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        write(tmp_path / "out", [])
    assert files(tmp_path) == []
    write(tmp_path / "out", [], replace=True)
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


@pytest.mark.parametrize("format", ["native", "onnx"])
def test_an_export_resumes_at_the_stage_that_was_interrupted(
    trio: dict[str, Path], tmp_path: Path, format: str
) -> None:
    arguments = (trio["base"], trio["guidance"], trio["answer"])

    def interrupt(step: str, done: int, total: int) -> None:
        if step.startswith("answer: writing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(*arguments, tmp_path / "out", format=format, resume=True, progress=interrupt, verify=False)
    steps: set[str] = set()
    export(
        *arguments,
        tmp_path / "out",
        format=format,
        resume=True,
        progress=lambda step, done, total: steps.add(step),
        verify=False,
    )
    steps -= {f"{stage}: checksums" for stage in STAGES}  # the inputs are checked again
    assert {step.split(" ")[1] for step in steps} == {"writing"}  # what onnx has merged is merged still
    assert {step.split(":")[0] for step in steps} == {"answer"}
    whole = export(*arguments, tmp_path / "whole", format=format, verify=False)
    assert whole.files == Bundle.open(tmp_path / "out").files
    assert (tmp_path / "whole/bundle.json").read_bytes() == (tmp_path / "out/bundle.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]
