"""Every data set's form, from small entries of its shape, and from the real files where they are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared

from edgereason.errors import UsageError
from edgereason.evaluation.data_sets import problems_of
from edgereason.problems import word_problems
from edgereason.problems.arithmetic.generator import SCENARIOS
from edgereason.problems.records import Problem, read_problems

CHOICES = [{"label": "1", "text": "a bank"}, {"label": "2", "text": "a mall"}]
ENTRIES: list[tuple[dict[str, Any], Problem]] = [
    ({"question": "a?", "result": 7, "structure": "s"}, Problem("a?", "7", structure="s")),
    ({"question": "b?", "answer": "1+1=<<1+1=2>>2\n#### 1,002"}, Problem("b?", "1,002")),
    (
        {"Body": "A pack costs 6", "Question": "How much?", "Answer": 51.0, "Type": "Subtraction"},
        Problem("A pack costs 6. How much?", "51", structure="Subtraction"),
    ),
    (
        {"answerKey": "2", "question": {"stem": "Where?", "choices": CHOICES}},
        Problem("Where?", "B", "choice", ("a bank", "a mall")),
    ),
    (
        {"answerKey": "A", "question": "Where?", "choices": {"label": ["A", "B"], "text": ["a bank", "a mall"]}},
        Problem("Where?", "A", "choice", ("a bank", "a mall")),
    ),
    ({"input": "Is it?", "target_scores": {"Yes": 0, "No": 1}}, Problem("Is it?", "no", "yes-no")),
    ({"question": "Is it?", "answer": True}, Problem("Is it?", "yes", "yes-no")),
    (
        {"prompt": "def f():\n", "entry_point": "f", "test": "def check(c):\n    assert c() == 1"},
        Problem("def f():\n", "def check(c):\n    assert c() == 1\n\ncheck(f)\n", "code"),
    ),
    (
        {"text": "Write f.", "test_list": ["assert f() == 1"], "test_setup_code": "import math"},
        Problem(
            "Write f.\nYour code has to pass these tests:\nassert f() == 1", "import math\nassert f() == 1", "code"
        ),
    ),
]


@pytest.mark.parametrize(("entry", "problem"), ENTRIES)
def test_every_form_is_read(tmp_path: Path, entry: dict[str, Any], problem: Problem) -> None:
    lines, gzipped, listed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz", tmp_path / "a.json"
    lines.write_text(f"{json.dumps(entry)}\n\n{json.dumps(entry)}\n")
    gzipped.write_bytes(gzip.compress(lines.read_bytes()))
    listed.write_text(json.dumps([entry, entry], indent=1))
    for path in (lines, gzipped, listed):
        assert read_problems(path) == [problem, problem]
        assert read_problems(path, limit=1) == [problem]


def test_choices_are_part_of_what_is_asked() -> None:
    assert Problem("Where?", "A", "choice", ("a bank", "a mall")).text == "Where?\n(A) a bank\n(B) a mall"


BAD_LINES = ["{", "[]", '{"question": "a?"}', '{"question": " ", "result": 1}', "7", '{"question": 1, "result": 1}']
UNKNOWN_KEY = '{"answerKey": "C", "question": {"stem": "a?", "choices": [{"label": "A", "text": "b"}]}}'


@pytest.mark.parametrize("line", [*BAD_LINES, UNKNOWN_KEY])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "a?", "result": 7}\n' + line)
    with pytest.raises(UsageError, match=r"problems\.jsonl:2 is not "):
        read_problems(file)


def test_no_problems_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_problems(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="leaves no problem"):
        read_problems(tmp_path / "empty")
    whole = gzip.compress(b'{"question": "How many?", "answer": "#### 1"}\n' * 99)
    (tmp_path / "damaged.jsonl.gz").write_bytes(whole[:20] + b"\xff\xff\xff" + whole[23:])
    with pytest.raises(UsageError, match="cannot be read"):
        read_problems(tmp_path / "damaged.jsonl.gz")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        read_problems(tmp_path / "broken.jsonl.gz")


@pytest.mark.parametrize(
    ("path", "count", "kind", "first"),
    [
        ("gsm8k/test.jsonl", 1319, "result", "18"),
        ("gsm8k/test_socratic.jsonl", 1319, "result", "18"),
        ("svamp/SVAMP.json", 1000, "result", "51"),
        ("commonsenseqa/dev_rand_split.jsonl", 1221, "choice", "A"),
        ("strategyqa/task.json", 2290, "yes-no", "yes"),
        ("humaneval/HumanEval.jsonl.gz", 164, "code", None),
    ],
)
def test_the_real_files_are_read(path: str, count: int, kind: str, first: str | None) -> None:
    problems = read_problems(shared(f"data/{path}"))
    assert len(problems) == count
    assert {problem.kind for problem in problems} == {kind}
    assert first is None or problems[0].expected == first


def test_names_are_looked_up_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEREASON_DATA", raising=False)
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "ARC-Easy-Test.jsonl").write_text(json.dumps(ENTRIES[3][0]))
    assert problems_of("arc-easy", tmp_path) == [ENTRIES[3][1]]
    with pytest.raises(UsageError, match="none is given") as missing:
        problems_of("arc-easy")
    assert "EDGEREASON_DATA" in missing.value.cure
    monkeypatch.setenv("EDGEREASON_DATA", str(tmp_path))
    assert problems_of("arc-easy") == [ENTRIES[3][1]]
    with pytest.raises(UsageError, match=r"gsm8k/test\.jsonl does not exist, where gsm8k should be"):
        problems_of("gsm8k")


def test_files_are_read_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(ENTRIES[0][0])}\n" * 3)
    assert problems_of(str(path), limit=2) == [ENTRIES[0][1]] * 2
    with pytest.raises(UsageError, match="limit is 0"):
        problems_of(path, limit=0)
    with pytest.raises(UsageError, match="neither a file nor a data set") as unknown:
        problems_of("gsm9k")
    assert "gsm8k-socratic" in unknown.value.cure


def test_of_mbpp_the_test_split_counts(tmp_path: Path) -> None:
    (tmp_path / "mbpp").mkdir()
    lines = (json.dumps({"task_id": n, "text": f"Write f{n}.", "test_list": ["assert 1"]}) for n in range(1, 975))
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text("\n".join(lines))
    problems = problems_of("mbpp", tmp_path)
    assert len(problems) == 500
    assert problems[0].question.startswith("Write f11.")
    assert problems[-1].question.startswith("Write f510.")


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k-socratic", "svamp", "commonsenseqa", "strategyqa", "humaneval"])
def test_the_real_directory_has_them_by_name(name: str) -> None:
    assert len(problems_of(name, shared("data"), limit=3)) == 3


def test_our_own_problems_come_from_their_seed() -> None:
    known, unknown = problems_of("held-out", limit=200), problems_of("held-out-structures", limit=200)
    assert not {each.structure for each in known} & {each.structure for each in unknown}
    assert {each.structure for each in known} <= {each.name for each in word_problems.KNOWN}
    assert len({each.question for each in known}) == 200
    arithmetic = problems_of("example")
    assert {each.structure for each in arithmetic} == {each.name for each in SCENARIOS}
    assert len({each.question for each in arithmetic}) == len(arithmetic) == 200


def test_held_out_problems_are_those_that_the_default_model_never_sees() -> None:
    from edgereason.training.default_model import from_scratch

    assert len(problems_of("held-out")) == len(problems_of("held-out-structures")) == from_scratch.HELD_OUT
    for name, structures in (("held-out", word_problems.KNOWN), ("held-out-structures", word_problems.UNKNOWN)):
        left_out = word_problems.held_out(0, from_scratch.HELD_OUT, structures)
        assert [each.question for each in problems_of(name)] == [each.question for each in left_out]
