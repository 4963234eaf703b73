"""Teachers: what they are asked, in which order their texts come, and what is no teacher."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import edgereason
from edgereason import load
from edgereason.errors import UsageError
from edgereason.training.data.teacher import TeacherRequest, open_teacher, parse_kind
from edgereason.training.examples import Example

BUNDLE = Path(edgereason.__file__).parent / "default_bundle"


class Handler(BaseHTTPRequestHandler):
    """A server whose model writes what it was asked, the later questions sooner, and some only when it may."""

    may = threading.Event()

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "echo"}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "patient" in asked["messages"][-1]["content"]:
            assert self.may.wait(60)
        time.sleep(0.05 if "first" in asked["messages"][-1]["content"] else 0.0)
        text = json.dumps([asked["messages"], asked["seed"], asked["temperature"], asked["max_tokens"]])
        event = json.dumps({"choices": [{"delta": {"content": f"  {text}\n"}}]})
        self._answer(f"data: {event}\n\ndata: [DONE]\n\n")

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_server_is_asked_for_every_sample_and_its_texts_come_in_the_order_of_the_questions(url: str) -> None:
    examples = [Example(f"The {name} question?", result="4", line=line) for line, name in enumerate(["first", "next"])]
    with closing(open_teacher(url, "guidance")) as teacher:
        texts = [
            [json.loads(text) for text in each] for each in teacher.write(examples, TeacherRequest(samples=3, seed=5))
        ]
    assert [len(each) for each in texts] == [3, 3]
    for example, written in zip(examples, texts, strict=True):
        for messages, _, temperature, limit in written:
            assert messages[-1] == {"role": "user", "content": example.text}
            assert "Never carry out a computation" in messages[0]["content"]
            assert (temperature, limit) == (0.8, 256)
    assert len({seed for written in texts for _, seed, _, _ in written}) == 6


def test_a_text_is_there_as_soon_as_the_server_has_written_it(url: str) -> None:
    examples = [Example(f"The {name} question?", line=line) for line, name in enumerate(["first", "patient"])]
    with (
        closing(open_teacher(url, "guidance")) as teacher,
        closing(teacher.write(examples, TeacherRequest(samples=1))) as written,
    ):
        assert "first" in next(written)[0]
        Handler.may.set()
        assert "patient" in next(written)[0]


def test_a_rationale_is_asked_for_with_the_words_of_the_right_choice(url: str) -> None:
    example = Example("Where?", result="B", choices=("bank", "mall"), line=1)
    with closing(open_teacher(url, "rationale")) as teacher:
        ((text,),) = teacher.write([example], TeacherRequest("rationale", samples=1))
    assert json.loads(text)[0][-1]["content"] == "Where?\n(A) bank\n(B) mall\n\nCorrect answer: mall"


def test_a_bundle_writes_what_its_guidance_stage_writes() -> None:
    questions = ["Tom has 12 apples and eats 5. How many apples does he have left?", "Ann has 3 pens. How many?"]
    examples = [Example(question, line=line) for line, question in enumerate(questions, start=1)]
    examples.insert(1, Example("How many? " * 500, line=9))  # too long for its context
    with closing(open_teacher(str(BUNDLE), "guidance")) as teacher:
        texts = list(teacher.write(examples, TeacherRequest(samples=1, temperature=0.0)))
    with load(BUNDLE) as reasoner:
        expected = [reasoner.ask(question, answer=False).guidance for question in questions]
    assert texts == [[expected[0]], [], [expected[1]]]


def test_what_is_no_teacher_or_wish_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no answer model"):
        open_teacher(str(tmp_path), "guidance")
    with pytest.raises(UsageError, match="kind is poem"):
        parse_kind("poem")
    with pytest.raises(UsageError, match="samples at temperature 0 are all the same"):
        TeacherRequest(temperature=0.0)
    with pytest.raises(UsageError, match="samples is 0"):
        TeacherRequest(samples=0)
    with pytest.raises(UsageError, match="top-p"):
        TeacherRequest(top_p=2.0)
