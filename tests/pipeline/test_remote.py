"""An answer model behind a server, against one of the standard library that sends what such servers send."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edgereason import load
from edgereason.bundle import Sampling
from edgereason.errors import EngineError, UsageError
from edgereason.pipeline.remote import RemoteModel

TURNS = [{"role": "user", "content": "1 + 1?"}]


class Handler(BaseHTTPRequestHandler):
    """Two models; a completion in three pieces; `behavior` breaks it."""

    behavior = "good"
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._answer(
            200, json.dumps({"data": [{"id": "small"}, {"id": "large"}]}) if self.behavior != "page" else "<p>"
        )

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.behavior == "refuses":
            return self._answer(400, "no such model")
        deltas = [{"role": "assistant"}, {"content": "1 + 1 "}, {"content": "= 2 ü"}, {}]
        events = [f"data: {json.dumps({'choices': [{'delta': delta}]})}\n\n" for delta in deltas]
        if self.behavior == "nonsense":
            events = ["data: [1, 2]\n\n"]
        return self._answer(200, ": a comment\n\n" + "".join(events) + "data: [DONE]\n\n")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Once", (Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", handler
        running.shutdown()
        thread.join()


def test_pieces_come_as_the_server_sends_them(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    model = RemoteModel(url)
    assert model.model == "small"
    sampling = Sampling(temperature=0.5, top_p=0.9, seed=3)
    assert list(model.write(TURNS, 7, sampling, ["\n\n"])) == ["1 + 1 ", "= 2 ü"]
    expected = {"model": "small", "messages": TURNS, "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3}
    assert handler.asked == [{**expected, "stop": ["\n\n"], "stream": True}]


def test_a_model_can_be_chosen_and_the_path_given(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    list(RemoteModel(f"{url}/v1#large").write(TURNS, 7, Sampling()))
    assert handler.asked[0]["model"] == "large"


def test_failures_are_sentences(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    model = RemoteModel(url)
    handler.behavior = "refuses"
    with pytest.raises(EngineError, match="answers 400: no such model"):
        list(model.write(TURNS, 7, Sampling()))
    handler.behavior = "nonsense"
    with pytest.raises(EngineError, match="something else than chat completions"):
        list(model.write(TURNS, 7, Sampling()))
    handler.behavior = "page"
    with pytest.raises(EngineError, match="something else than chat completions"):
        RemoteModel(url)
    with pytest.raises(EngineError, match="cannot be reached"):
        RemoteModel("http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "file:///etc/passwd", "http://"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no http address"):
        RemoteModel(url)


def test_guidance_goes_to_a_server_that_answers(server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    with load(answer_model=url) as reasoner:
        result = reasoner.ask("Tom has 12 apples and eats 5. How many apples does he have left?", max_new_tokens=40)
        assert (result.engine, result.answer, result.timings.answer.new_tokens) == ("server", "1 + 1 = 2 ü", 2)
        assert result.guidance.startswith("Asked: ")
        [asked] = handler.asked
        assert asked["max_tokens"] == 40
        assert result.guidance in asked["messages"][-1]["content"]
        with pytest.raises(UsageError, match="answer model on this machine"):
            list(reasoner.batch(["How many?"]))
