"""Files of questions: order, errors, and going on after every kind of interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from places import HELD_OUT

from edgereason import Reasoner, UsageError, load
from edgereason.evaluation import read_problems, same_result
from edgereason.pipeline.batch_file import Progress, answer_file

LINES = [
    {"question": "How many?", "id": "first"},
    {"question": "Who?"},
    {"query": "no question"},
    {"question": " "},
    {"question": "What is left of 12 apples?", "id": 5},
]


@pytest.fixture(scope="module")
def reasoner(native_bundle: Path) -> Iterator[Reasoner]:
    with load(native_bundle) as reasoner:
        yield reasoner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    texts = [json.dumps(line) for line in LINES]
    path.write_bytes("\n".join([*texts[:2], "", "{not json", *texts[2:]]).encode() + b"\n\xff\xfe\n")
    return path


def answer(reasoner: Reasoner, source: Path, out: Path) -> Progress:
    return answer_file(reasoner, source, out, max_new_tokens=4)


def without_timings(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    for line in lines:
        line.pop("timings", None)
    return lines


@pytest.mark.usefixtures("rows_as_if_alone")
def test_each_line_has_its_result_or_its_error_in_order(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    progress = answer(reasoner, source, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 4, 5, 6, 7, 8]
    assert [("error" in line) for line in lines] == [False, False, True, True, True, False, True]
    assert [line.get("id") for line in lines] == ["first", None, None, None, None, 5, None]
    assert (progress.total, progress.done, progress.answered, progress.failed) == (7, 7, 3, 4)
    for line in (lines[0], lines[1], lines[5]):
        expected = reasoner.ask(line["question"], max_new_tokens=4)
        assert (line["guidance"], line["answer"], line["final"]) == (expected.guidance, expected.answer, expected.final)
    assert "JSON" in lines[2]["error"]
    assert "question" in lines[3]["error"]
    assert lines[4]["error"] == "The question is empty."


def test_a_file_cut_anywhere_goes_on_to_the_same_results(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    answer(reasoner, source, whole)
    data = whole.read_bytes()
    ends = [position + 1 for position, byte in enumerate(data) if byte == ord("\n")]
    cuts = {0, 1, 5, 12, *(end + offset for end in ends for offset in (-2, -1, 0, 3)), len(data)}
    for cut in sorted(cut for cut in cuts if cut <= len(data)):
        out = tmp_path / "out.jsonl"
        out.write_bytes(data[:cut])
        progress = answer(reasoner, source, out)
        assert without_timings(out) == without_timings(whole)
        kept = max((end for end in ends if end <= cut), default=0)
        assert out.read_bytes().startswith(data[:kept])  # not made again: their timings are the old ones
        assert progress.before == sum(end <= cut for end in ends)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit for the size of files")
@pytest.mark.usefixtures("rows_as_if_alone")
def test_a_full_disk_is_a_sentence_and_costs_no_line(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    """Also where the last bytes of the last line are the ones that do not fit."""
    import resource

    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    answer(reasoner, source, whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Timings have now more and now fewer digits.
    for size in (whole.stat().st_size // 2, len(whole.read_bytes().splitlines()[0]) // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            with pytest.raises(UsageError, match=r"out\.jsonl cannot be written: File too large"):
                answer(reasoner, source, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        answer(reasoner, source, out)
        assert without_timings(out) == without_timings(whole)
        out.unlink()
    source.write_text('{"question": "How many?"}\n')  # nothing is written after its one line
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(UsageError, match=r"out\.jsonl cannot be written: File too large"):
            answer(reasoner, source, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_answered_is_in_the_file_at_once(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out.jsonl", []

    def report(progress: Progress) -> None:
        seen.append(progress.done)
        assert len(out.read_bytes().splitlines()) == progress.done
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_file(reasoner, source, out, report=report, max_new_tokens=4)
    assert seen == [1, 2, 3]
    assert answer(reasoner, source, out).before == 3


@pytest.mark.parametrize(
    "content",
    [
        "notes\n",
        "notes",
        '{"line": 1, "question": "Another one?"}\n',
        '{"line": 2, "question": "How many?"}\n',
        '{"question": "How many?"}\n',
        "[]\n",
        '{"line": 1, "question": "How many?"}\n' * 2,
    ],
)
def test_a_file_of_something_else_is_left_alone(reasoner: Reasoner, source: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(UsageError, match=r"Line [12] of .*out\.jsonl is no result of .*in\.jsonl"):
        answer(reasoner, source, out)
    assert out.read_text() == content


def test_files_that_cannot_be_used_are_named(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere does not exist"):
        answer(reasoner, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UsageError, match="the file with the questions"):
        answer(reasoner, source, source)
    with pytest.raises(UsageError, match="cannot be written"):
        answer(reasoner, source, tmp_path / "nowhere" / "out")
    with pytest.raises(UsageError, match="size is 0"):
        answer_file(reasoner, source, tmp_path / "new", batch_size=0)
    assert not (tmp_path / "new").exists()


def test_more_questions_may_be_added_later(reasoner: Reasoner, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    answer(reasoner, source, out)
    with source.open("a") as file:
        file.write('{"question": "And now?"}\n')
    progress = answer(reasoner, source, out)
    assert (progress.before, progress.answered) == (7, 1)
    assert json.loads(out.read_text().splitlines()[-1])["question"] == "And now?"


def test_the_program_goes_on_after_ctrl_c(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "edgereason",
        "batch",
        HELD_OUT,
        out,
        "--batch-size",
        "1",
        "--threads",
        "1",
    ]
    # A shell may have told its background jobs to ignore Ctrl-C; the program shall hear it here.
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "the same command continues" in errors
    stopped = out.read_bytes()
    answered = stopped.count(b"\n")
    assert stopped.endswith(b"\n")
    problems = read_problems(HELD_OUT)
    assert 3 <= answered < len(problems)

    done = subprocess.run([*command, "--batch-size", "16"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{answered} answered before" in done.stderr
    assert out.read_bytes().startswith(stopped)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["question"] for line in lines] == [problem.question for problem in problems]
    right = [same_result(line["final"] or "", problem.expected) for line, problem in zip(lines, problems, strict=True)]
    assert np.mean(right) > 0.8


def test_a_line_that_names_no_text_is_a_bad_line(reasoner: Reasoner, tmp_path: Path) -> None:
    """JSON may name lone surrogates: `"\\ud800"` is valid, and no character."""
    (tmp_path / "in.jsonl").write_text('{"question": "a\\ud800b"}\n{"id": "\\udfff", "question": "How many?"}\n')
    answer(reasoner, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 2]
    assert all("not UTF-8 text" in row["error"] for row in rows)
