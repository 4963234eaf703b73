"""Several questions after each other: what each stage sees of the turns before, and what happens when they are many."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgereason import load
from edgereason.pipeline.conversation import Conversation
from edgereason.pipeline.reasoner import Reasoner

PROGRAM = [sys.executable, "-m", "edgereason"]


@pytest.fixture(scope="module")
def small(native_bundle: Path) -> Iterator[Reasoner]:
    with load(native_bundle) as reasoner:  # random weights, a context of 256 tokens
        yield reasoner


def ask(conversation: Conversation, question: str) -> None:
    for _ in conversation.stream(question, max_new_tokens=4):
        pass


def test_each_stage_sees_its_own_part_of_the_turns_before(small: Reasoner) -> None:
    conversation = Conversation(small)
    ask(conversation, "How many?")
    ask(conversation, "Who?")
    first, second = conversation.results
    asked = small.ask("Who?", max_new_tokens=4, history=[first])
    assert (second.guidance, second.answer) == (asked.guidance, asked.answer)
    alone = small.ask("Who?", max_new_tokens=4)
    turns = small.bundle.stages["guidance"].prompt.after([("How many?", None, first.guidance)]).messages("Who?")
    assert [turn["content"] for turn in turns[-3:]] == ["How many?", first.guidance, "Who?"]
    assert second.timings.guidance.prompt_tokens > alone.timings.guidance.prompt_tokens


def test_the_oldest_turns_are_left_out_when_the_context_is_full(small: Reasoner) -> None:
    conversation = Conversation(small)
    for number in range(8):
        ask(conversation, f"How many is {number}?")
        assert conversation.results[-1].timings.answer.prompt_tokens <= 256
    assert len(conversation.results) == 8
    assert 0 < conversation.left_out < 8


def test_a_stopped_answer_is_no_turn(small: Reasoner) -> None:
    conversation = Conversation(small)
    events = conversation.stream("How many?", max_new_tokens=4)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert conversation.results == []
    ask(conversation, "How many?")
    conversation.clear()
    assert conversation.to_json() == []


def test_the_program_reads_questions_and_commands_from_a_pipe(native_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.json"
    lines = [
        "How many?",
        "/guidance off",
        "Who is \\",
        "it?",
        "/stats",
        f"/save {file}",
        "/guidance maybe",
        "/dance",
        "/new",
    ]
    lines += ["/save", "/stats", "/help", "/quit", "never asked"]
    command = [*PROGRAM, "chat", str(native_bundle), "--max-tokens", "4"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    turns = json.loads(file.read_text(encoding="utf-8"))
    assert [turn["question"] for turn in turns] == ["How many?", "Who is \nit?"]
    assert turns[0]["guidance"]
    assert turns[1]["guidance"] == ""
    for expected in ("guidance is off.", "2 turns, ", "2 turns saved to", "on or /guidance off", "There is no /dance"):
        assert expected in done.stdout
    assert "Nothing has been answered yet." in done.stdout
    assert "never asked" not in done.stdout


def test_ctrl_c_stops_the_answer_and_not_the_program(native_bundle: Path) -> None:
    terminal, side = pty.openpty()
    command = [*PROGRAM, "chat", str(native_bundle), "--max-tokens", "220", "--threads", "1"]
    child = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, close_fds=True, start_new_session=True)
    os.close(side)
    try:
        assert "/help" in _until(terminal, "> ")
        os.write(terminal, b"How many?\n")
        os.read(terminal, 100)  # the echo
        _until(terminal, "", least=20)
        child.send_signal(signal.SIGINT)
        shown = _until(terminal, "> ")
        os.write(terminal, b"/stats\n")
        assert "stopped." in shown or "load" in shown  # it may have ended just before
        _until(terminal, "> ")
        os.write(terminal, b"\x04")
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


def _until(terminal: int, expected: str, least: int = 0) -> str:
    """What the program shows, up to `expected` and of `least` length."""
    shown, end = "", time.monotonic() + 60
    while time.monotonic() < end and not (shown.endswith(expected) and len(shown) > least):
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 1000).decode(errors="replace")
    return shown
