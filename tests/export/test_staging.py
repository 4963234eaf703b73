"""Bundles under way: what is left by an export that ends badly, and what the next one finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgereason.bundle import STAGES, Bundle, record_files
from edgereason.errors import BundleError, ExportError
from edgereason.export import export
from edgereason.export.staging import check_out, staged


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
            with (
                pytest.raises(ExportError, match="Another process is writing"),
                staged(tmp_path / "out", "key", resume),
            ):
                pass
        assert len(list(tmp_path.iterdir())) == 1  # it is still there
        os.kill(child.pid, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    with staged(tmp_path / "out", "key", resume=True) as staging:
        assert staging.once("first", lambda: {"made": "again"}) == {"made": "before"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # nothing is lost with it
    with pytest.raises(ExportError, match="exists already"):
        write(tmp_path / "out", [])
    assert files(tmp_path) == []
    write(tmp_path / "out", [], replace=True)
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


def shorten(staging: Path) -> None:
    (staging / "bundle" / "first" / "whole").write_text("hal")


def exchange_with_another(staging: Path) -> None:
    """As after a kill between the exchange and the removal of what was there before."""
    (staging / "bundle" / "first" / "whole").write_text("flah")  # as long as what it replaces


def publish_without_cleaning(staging: Path) -> None:
    """As after a kill between the rename and the removal of the directory."""
    shutil.rmtree(staging / "bundle")


def cut_the_record(staging: Path) -> None:
    record = staging / "finished.json"
    record.write_bytes(record.read_bytes()[:20])


def write_another_versions_record(staging: Path) -> None:
    (staging / "finished.json").write_text('{"first": {"step": "first"}}')


@pytest.mark.parametrize(
    "damage",
    [shorten, exchange_with_another, publish_without_cleaning, cut_the_record, write_another_versions_record],
)
def test_a_finished_step_whose_files_are_others_is_repeated(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    interrupted(tmp_path / "out", resume=True)
    damage(next(tmp_path.iterdir()))
    log: list[str] = []
    write(tmp_path / "out", log, resume=True)
    assert log == ["first", "second"]
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]
    assert (tmp_path / "out/first/whole").read_text() == "half"


def test_what_no_finished_step_has_written_does_not_come_into_the_bundle(tmp_path: Path) -> None:
    interrupted(tmp_path / "out", resume=True)
    bundle = next(tmp_path.iterdir()) / "bundle"
    for name in ("bundle.json", ".bundle.json.1.partial", "first/.whole.1.partial", "third"):
        (bundle / name).write_text("left")
    write(tmp_path / "out", [], resume=True)
    assert files(tmp_path) == ["out/first/whole", "out/second/whole"]


def test_the_sums_of_finished_steps_are_those_of_their_files(tmp_path: Path) -> None:
    def run(staging: Path) -> dict[str, Any]:
        (staging / "first" / "file").write_text("text")
        return {}

    with staged(tmp_path / "out", "key") as staging:
        staging.once("first", lambda: run(staging.path))
        (staging.path / "first" / "later").write_text("more")
        assert staging.files() == record_files(staging.path)
        assert sorted(staging.files()) == ["first/file", "first/later"]


@pytest.fixture
def bundle(native_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(native_bundle, tmp_path / "out", ignore=shutil.ignore_patterns("cache")))


def refusal(out: Path, inputs: tuple[Path, ...] = ()) -> str:
    """The message of an export that must not replace what is there, and that says so before any work."""
    before = files(out.parent)
    with pytest.raises(ExportError) as caught, staged(out, "key", replace=True, inputs=inputs):
        raise AssertionError("the export has begun")
    assert files(out.parent) == before
    return str(caught.value)


def test_a_bundle_is_replaced_with_its_cache(bundle: Path) -> None:
    (bundle / "cache").mkdir()
    (bundle / "cache" / "guidance-1.kv").write_text("session")
    write(bundle, [], replace=True)
    assert files(bundle.parent) == ["out/first/whole", "out/second/whole"]


def test_a_bundle_that_lacks_a_file_is_replaced(bundle: Path) -> None:
    (bundle / "answer" / "model.safetensors").unlink()
    write(bundle, [], replace=True)
    assert files(bundle.parent) == ["out/first/whole", "out/second/whole"]


def test_a_directory_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    message = refusal(tmp_path / "out")
    assert "cannot be read as a bundle" in message
    assert "Give another --out, or remove it yourself." in message


def test_a_bundle_whose_manifest_is_damaged_is_not_replaced(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{")
    assert "bundle.json is damaged" in refusal(bundle)


@pytest.mark.parametrize("name", ["notes.txt", "answer/notes.txt", "guidance/cache/notes.txt", ".hidden"])
def test_a_file_that_is_not_the_bundles_keeps_it(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("mine")
    message = refusal(bundle)
    assert f"{name} in it does not belong to the bundle" in message
    assert "Move that file elsewhere" in message


def test_a_link_in_a_bundle_keeps_it(bundle: Path) -> None:
    (bundle / "answer" / "more").symlink_to(bundle.parent)
    assert "answer/more in it does not belong to the bundle" in refusal(bundle)


def test_a_file_that_comes_while_an_export_runs_keeps_the_bundle(bundle: Path) -> None:
    with pytest.raises(ExportError, match=r"notes\.txt in it"), staged(bundle, "key", replace=True):
        (bundle / "notes.txt").write_text("mine")
    assert (bundle / "notes.txt").read_text() == "mine"
    Bundle.open(bundle)
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("inside", [".", "cache", "answer/model.safetensors"])
def test_an_input_is_not_replaced(bundle: Path, inside: str) -> None:
    (bundle / "cache").mkdir()
    message = refusal(bundle, (bundle.parent / "elsewhere", bundle / inside))
    assert f"an input of this export, {bundle / inside}" in message


@pytest.mark.parametrize("replace", [True, False])
def test_a_link_is_not_replaced(bundle: Path, replace: bool) -> None:
    for name, target in (("link", bundle), ("broken", bundle.parent / "nowhere")):
        (bundle.parent / name).symlink_to(target)
        with pytest.raises(ExportError, match=f"{name} is a link to {target}"):
            check_out(bundle.parent / name, replace)
    write(bundle.parent / "link" / ".." / "new", [])  # on the way to it links do no harm
    assert (bundle.parent / "new").is_dir()


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    assert "out is a file, and a bundle is a directory" in refusal(tmp_path / "out")


def test_the_next_export_brings_back_what_a_killed_one_had_moved_aside(bundle: Path) -> None:
    before = files(bundle)
    bundle.rename(bundle.with_name(".out.123.old"))
    with pytest.raises(ExportError, match="exists already"):
        write(bundle, [])
    assert files(bundle) == before
    bundle.rename(bundle.with_name(".out.123.old"))
    interrupted(bundle, replace=True)
    assert files(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("forced", ["base", "answer", "all"])
def test_base_and_adapters_survive_an_export_into_them(trio: dict[str, Path], tmp_path: Path, forced: str) -> None:
    copied = Path(shutil.copytree(trio["base"].parent, tmp_path / "all"))
    before = files(copied)
    out = copied if forced == "all" else copied / forced
    with pytest.raises(ExportError, match="cannot be read as a bundle"):
        export(*(copied / name for name in ("base", "guidance", "answer")), out, replace=True, verify=False)
    assert files(copied) == before


def test_a_manifest_that_its_reader_refuses_replaces_nothing(
    trio: dict[str, Path], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest = Bundle.write_manifest

    def write_and_break(self: Bundle) -> None:
        write_manifest(self)
        manifest = json.loads((self.path / "bundle.json").read_text())
        manifest["stages"]["answer"]["stop_ids"] = [True]
        (self.path / "bundle.json").write_text(json.dumps(manifest))

    before = (bundle / "bundle.json").read_bytes()
    monkeypatch.setattr(Bundle, "write_manifest", write_and_break)
    with pytest.raises(BundleError, match=r"stop_ids are \[True\], not token ids"):
        export(*trio.values(), bundle, replace=True, verify=False)
    assert (bundle / "bundle.json").read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


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
