"""Calibration text: the stages' prompts over shipped problems, or a file, as ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_model import save_tokenizer

from edgereason.errors import UsageError
from edgereason.export.quantization.calibration import DEFAULT_CALIBRATION_FILE, MAX_CALIBRATION_TOKENS, CalibrationText
from edgereason.problems.arithmetic.generator import held_out_arithmetic
from edgereason.problems.worked_problem import question_key
from edgereason.text.prompts import ANSWER, GUIDANCE
from edgereason.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return Tokenizer(directory)


def texts(calibration: CalibrationText, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(ids) for ids in calibration.sequences(tokenizer)]


def test_shipped_problems_are_rendered_as_the_stage_reads_and_writes_them(tokenizer: Tokenizer) -> None:
    first = json.loads(DEFAULT_CALIBRATION_FILE.read_text().splitlines()[0])
    guidance = texts(CalibrationText({"guidance": GUIDANCE}), tokenizer)
    answer = texts(CalibrationText({"answer": ANSWER}), tokenizer)
    assert len(guidance) == len(answer) == 128
    assert guidance[0].endswith(first["guidance"])
    assert first["answer"] not in guidance[0]
    assert answer[0].endswith(first["answer"])
    assert GUIDANCE.system in guidance[0]
    assert ANSWER.messages(first["question"], first["guidance"])[-1]["content"] in answer[0]


def test_stages_that_share_a_base_share_its_calibration(tokenizer: Tokenizer) -> None:
    both = CalibrationText({"guidance": GUIDANCE, "answer": ANSWER})
    first = json.loads(DEFAULT_CALIBRATION_FILE.read_text().splitlines()[0])
    guidance, answer = texts(both, tokenizer)[:2]
    assert guidance.endswith(first["guidance"])
    assert answer.endswith(first["answer"])


def test_shipped_problems_are_none_that_the_example_holds_out() -> None:
    held = {question_key(problem.question) for problem in held_out_arithmetic(seed=0)}
    shipped = [question_key(json.loads(line)["question"]) for line in DEFAULT_CALIBRATION_FILE.read_text().splitlines()]
    assert not held & set(shipped)


def test_a_file_may_have_questions_alone_and_texts_as_they_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text('{"question": "How many?"}\n\n{"text": "Plain text."}\n')
    found = texts(CalibrationText({"answer": ANSWER}, file), tokenizer)
    assert "How many?" in found[0]
    assert found[1] == "Plain text."


def test_plain_text_is_cut_into_pieces_up_to_a_limit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("12 apples. " * 20_000)
    pieces = CalibrationText({"answer": ANSWER}, file).sequences(tokenizer)
    assert max(map(len, pieces)) == 2048
    assert sum(map(len, pieces)) == MAX_CALIBRATION_TOKENS
    expected = tokenizer.encode(file.read_text())[:MAX_CALIBRATION_TOKENS]
    assert [token for piece in pieces for token in piece] == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no text"),
        ("not json", "file.jsonl:1 is not JSON"),
        ('{"text": "fine"}\n{"prompt": "?"}', "file.jsonl:2 has neither"),
        ('{"question": 3}', "not a string"),
        ("[1]", "neither"),
    ],
)
def test_what_is_no_calibration_text_is_named(content: str, message: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        CalibrationText({"answer": ANSWER}, file).sequences(tokenizer)
