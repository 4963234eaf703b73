"""Progress without a terminal: what is written when, and that the thread ends with its block."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from edgereason.errors import UsageError
from edgereason.progress.display import log_json, shown_progress
from edgereason.progress.log import ProgressLog, Standing, every, json_line, text_line


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _for_people() -> Iterator[None]:
    log_json(None)
    yield
    log_json(None)


def test_the_time_left_follows_the_speed_of_the_step_so_far() -> None:
    clock, written = Clock(), list[Standing]()
    log = ProgressLog("export", written.append, clock)
    log.report("merging", 40, 100)  # resumed: these 40 took no time
    log.tick()
    clock.now += 10
    log.report("merging", 60, 100)
    clock.now += 5
    log.tick()
    assert [each.seconds_left for each in written] == [None, 15.0]  # 0.5 s a unit, 40 to go, 5 s of them gone
    assert [(each.done, each.total, each.seconds) for each in written] == [(40, 100, 0.0), (60, 100, 15.0)]


def test_a_last_unit_that_takes_long_still_has_time_left() -> None:
    clock, written = Clock(), list[Standing]()
    log = ProgressLog("export", written.append, clock)
    log.report("merging", 0, 2)
    clock.now += 10
    log.report("merging", 1, 2)
    clock.now += 100
    log.tick()
    assert text_line(written[0]) == "merging: 1 of 2 (50%), 1 s left"
    assert json.loads(json_line(written[0], "export"))["seconds_left"] == 1.0


def test_nothing_but_a_complete_step_has_no_time_left() -> None:
    clock, written = Clock(), list[Standing]()
    log = ProgressLog("export", written.append, clock)
    for done in (0, 1, 2):
        log.report("merging", done, 2)  # within one tick of the clock
        log.tick()
    assert [json.loads(json_line(each, "export"))["seconds_left"] for each in written] == [None, 0.1, 0.0, None]
    assert [text_line(each).rsplit(" ", 1)[-1] for each in written[:3]] == ["(0%)", "left", "done"]


def test_a_complete_step_is_written_once_and_the_work_goes_on_under_its_own_name() -> None:
    clock, written = Clock(), list[Standing]()
    log = ProgressLog("export", written.append, clock)
    for done in (0, 1, 2, 2):
        log.report("merging", done, 2)
    clock.now += 20
    log.tick()
    log.report("writing", 1, 3, "loss 0.5")
    log.tick()
    assert [(each.step, each.done, each.total) for each in written] == [
        ("merging", 2, 2),
        ("export", 0, None),
        ("writing", 1, 3),
    ]
    assert [text_line(each) for each in written] == [
        "merging: 2 of 2 (100%), done",
        "export: for 20 s",
        "writing: 1 of 3 (33%), loss 0.5",
    ]


def test_machines_get_the_same_as_an_object() -> None:
    value = json.loads(json_line(Standing("merging", 1, 4, "", 2.0, 6.0), "export"))
    assert value.pop("time").endswith("+00:00")
    assert value == {"command": "export", "step": "merging", "done": 1, "total": 4, "seconds_left": 6.0}
    waiting = json.loads(json_line(Standing("export", detail="loss 0.5"), "export"))
    assert (waiting["total"], waiting["seconds_left"], waiting["detail"]) == (None, None, "loss 0.5")


def test_lines_come_while_one_step_blocks_and_the_thread_ends_with_the_block(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEREASON_LOG_INTERVAL", "0.02")
    before = set(threading.enumerate())
    lines: list[str] = []

    def work() -> None:
        with shown_progress("export") as report:
            report("merging", 0, 2)
            assert len(set(threading.enumerate()) - before) == 1
            deadline = time.monotonic() + 30
            while len(lines) < 3 and time.monotonic() < deadline:
                time.sleep(0.01)
                lines.extend(capsys.readouterr().err.splitlines())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert not set(threading.enumerate()) - before
    assert set(lines) == {"merging: 0 of 2 (0%)"}
    assert len(lines) >= 3
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_block_inside_another_reports_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    log_json("train")
    with shown_progress("training"), shown_progress("sampling") as report:
        assert len(set(threading.enumerate()) - before) == 1
        report("sampling", 3, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["step"] == "sampling"


def test_what_is_not_shown_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_progress("training", shown=False), shown_progress("sampling") as report:
        report("sampling", 3, 3)
    assert capsys.readouterr().err == ""


def test_an_action_is_repeated_by_a_thread_of_its_own() -> None:
    called: list[str] = []
    with every(0.01, lambda: called.append(threading.current_thread().name)):
        deadline = time.monotonic() + 30
        while len(called) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert set(called) == {"progress"}


@pytest.mark.parametrize("interval", ["soon", "0", "-1", "inf", "nan"])
def test_an_interval_that_is_none_is_refused(interval: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEREASON_LOG_INTERVAL", interval)
    with pytest.raises(UsageError, match="EDGEREASON_LOG_INTERVAL is"), shown_progress("export"):
        pass
