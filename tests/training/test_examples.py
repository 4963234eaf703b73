"""Training data: what is wrong with a line is told with its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereason.errors import UsageError
from edgereason.problems.records import Problem
from edgereason.training.examples import Example, read_examples

GOOD = b'{"question": "How many?", "guidance": "Count.", "id": 7}\n'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "How many?"}', r'data\.jsonl:3 has no "guidance"'),
        (b'{"guidance": "Count."}', r'data\.jsonl:3 has no "question"'),
        (b'{"question": "How many?", "guidance": "  "}', r'data\.jsonl:3: "guidance" is empty'),
        (b'{"question": "How many?", "guidance": 3}', r'data\.jsonl:3: "guidance" is not a string'),
        (b'{"question": "How many?", "guidance": null}', r'data\.jsonl:3: "guidance" is not a string'),
        (b'{"question": "How?", "guidance": "Count.", "answer": 3}', r'data\.jsonl:3: "answer" is not a string'),
        (b'{"question": "How?", "guidance": "Count.", "choices": "A"}', r'data\.jsonl:3: "choices" is not a list'),
        (b'{"question": "How?", "guidance": "Count.", "choices": ["a", ""]}', r'data\.jsonl:3: "choices"'),
        (b'{"question": "How many?", "guid', r"data\.jsonl:3 is not JSON"),
        (b'"How many?"', r"data\.jsonl:3 is not a JSON object"),
        (b'{"question": "\xff", "guidance": "Count."}', r"data\.jsonl:3 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(UsageError, match=message):
        read_examples(path, ("guidance",))


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "has no examples"), (None, "does not exist")])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_examples(path, ())


texts = st.text(min_size=1).map(str.strip).filter(bool)


@settings(deadline=None)
@given(st.lists(st.builds(Example, texts, texts, texts, texts, st.lists(texts).map(tuple)), min_size=1))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> None:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps(each.to_json()) + "\n" for each in examples), encoding="utf-8")
    read = read_examples(path, ("guidance", "answer", "result"))
    assert [each.to_json() for each in read] == [each.to_json() for each in examples]
    assert [each.line for each in read] == list(range(1, len(examples) + 1))


def test_choices_are_asked_as_evaluation_asks_them() -> None:
    choices = ("bank", "mall")
    assert Example("Where?", choices=choices).text == Problem("Where?", "A", "choice", choices).text
    assert Example("Where?").text == "Where?"


def test_texts_are_those_that_the_pipeline_passes_on(tmp_path: Path) -> None:
    """It strips questions and guidance, and a model's answer begins and ends with words."""
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": " How many?\\n", "guidance": "\\nCount. ", "answer": " 3\\n"}\n')
    (example,) = read_examples(path, ("guidance", "answer"))
    assert (example.text, example.guidance, example.answer) == ("How many?", "Count.", "3")
