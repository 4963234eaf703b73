"""Public data sets as training data: nothing is lost, and evaluation finds the right result in every answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from shared_data import shared

from edgereason.errors import UsageError
from edgereason.problems.equivalence import same_result
from edgereason.problems.extraction import extract
from edgereason.problems.final_result import final_result
from edgereason.problems.records import read_problems
from edgereason.training.data.conversion import convert
from edgereason.training.examples import read_examples

ARC = {
    "question": "Which one is a rock?",
    "choices": {"text": ["granite", "oak"], "label": ["1", "2"]},
    "answerKey": "1",
}
PLAIN = {"question": "How many?", "answer": "Two and two are <<2+2=4>>4.\n#### 4"}
SOCRATIC = {"question": "How many?", "answer": "How many pears? ** There are <<2+2=4>>4.\nAll? ** 4.\n#### 4"}


def converted(entry: dict[str, object], directory: Path) -> dict[str, object]:
    (directory / "in.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    assert convert(directory / "in.jsonl", directory / "out.jsonl") == 1
    found: dict[str, object] = json.loads((directory / "out.jsonl").read_text(encoding="utf-8"))
    return found


def test_solutions_stay_as_they_are(tmp_path: Path) -> None:
    assert converted(PLAIN, tmp_path) == {**PLAIN, "result": "4"}


def test_sub_questions_become_the_guidance(tmp_path: Path) -> None:
    assert converted(SOCRATIC, tmp_path) == {
        "question": "How many?",
        "guidance": "How many pears?\nAll?",
        "answer": "There are <<2+2=4>>4.\n4.\n#### 4",
        "result": "4",
    }


def test_the_answer_to_a_choice_is_its_words_and_its_letter(tmp_path: Path) -> None:
    found = converted(ARC, tmp_path)
    assert found == {
        "question": ARC["question"],
        "choices": ["granite", "oak"],
        "answer": "granite\n#### A",
        "result": "A",
    }


@pytest.mark.parametrize(
    "path",
    [
        "gsm8k/test.jsonl",
        "gsm8k/test_socratic.jsonl",
        "svamp/SVAMP.json",
        "commonsenseqa/dev_rand_split.jsonl",
        "strategyqa/task.json",
    ],
)
def test_evaluation_finds_the_result_in_every_answer(path: str, tmp_path: Path) -> None:
    source, out = shared(f"data/{path}"), tmp_path / "out.jsonl"
    problems = read_problems(source, 200)
    assert convert(source, out, 200) == len(problems)
    for problem, example in zip(problems, read_examples(out, ("answer", "result")), strict=True):
        assert (example.text, example.result) == (problem.text.strip(), problem.expected)  # as the pipeline asks
        assert example.answer is not None
        found = extract(problem, example.answer)
        assert found is not None
        assert same_result(found, problem.expected)
        assert same_result(final_result(example.answer) or "", problem.expected)
        assert not re.search(r" \*\* ", example.answer)


def test_programs_and_empty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    path.write_text(json.dumps({"prompt": "def f():", "entry_point": "f", "test": "def check(f): pass"}) + "\n")
    with pytest.raises(UsageError, match="holds problems of programming"):
        convert(path, tmp_path / "out.jsonl")
    path.write_text("\n")
    with pytest.raises(UsageError, match="leaves nothing to convert"):
        convert(path, tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="is the input file itself"):
        convert(path, path)
    assert not (tmp_path / "out.jsonl").exists()
