"""What is kept of a teacher's texts: nothing that computes or names the answer, and nothing twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared

from edgereason.errors import UsageError
from edgereason.problems.arithmetic.generator import held_out_arithmetic
from edgereason.training.data.duplicates import Duplicates
from edgereason.training.data.guidance_writing import Statistics, select, write_guidance
from edgereason.training.data.leaks import leak
from edgereason.training.data.teacher import TeacherRequest
from edgereason.training.examples import Example

DUCKS = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast and bakes muffins with four. She sells the rest "
    "for $2 each. How many dollars does she make every day?"
)


@pytest.mark.parametrize(
    ("guidance", "reason"),
    [
        ("Asked: dollars per day. Steps: subtract 3 and 4 from the 16 eggs, then multiply by 2 dollars.", None),
        ("1. Find the eggs that are left.\n2) Find what they bring.\nStep 3: check. See the 4th sentence.", None),
        ("There are three steps, and eight questions to ask.", None),
        ("There are 1 or 2 things to find; 0 eggs are thrown away.", None),
        ("She has 9 eggs left, each for 2 dollars.", "number"),
        ("Subtract to get twenty-one eggs.", "number"),
        ("First compute 16 - 3 - 4 = what is left.", "computation"),
        ("First compute 16 \u00d7 2 = money.", "computation"),
        ("In the end she has 18 dollars.", "answer"),
        ("In the end she has eighteen dollars.", "answer"),
        ("In the end she has $18.00.", "answer"),
        ("Count.\n#### 5", "result marker"),
        ("  \n", "empty"),
    ],
)
def test_numbers_that_the_question_does_not_have_are_leaks(guidance: str, reason: str | None) -> None:
    assert leak(guidance, DUCKS, "18") == reason


@pytest.mark.parametrize(
    ("guidance", "result", "reason"),
    [
        ("In the end she has 18 of them.", "18 eggs", "answer"),
        ("In the end she has eighteen.", "$18", "answer"),
        ("It takes 3/4 of the day.", "0.75", "answer"),
        ("They meet at 10:30.", "10:30", "answer"),
        ("She sells 9 and 18.", "9 and 18", "answer"),
        ("Subtract 3 from 16 eggs.", "16 eggs", None),
        ("Subtract 3 from 16 eggs.", "3/16", None),
    ],
)
def test_a_result_is_a_leak_in_whatever_form_it_is_told(guidance: str, result: str, reason: str | None) -> None:
    assert leak(guidance, DUCKS, result) == reason


@pytest.mark.parametrize(
    ("guidance", "reason"),
    [
        ("Think of where much money is kept; a mall has many doors, too.", None),
        ("(A) fits best.", "answer"),
        ("So the answer is A.", "answer"),
        ("Choose option A here.", "answer"),
        ("A bank is safe. (B) has none of that.", None),
    ],
)
def test_the_letter_of_the_right_choice_is_a_leak(guidance: str, reason: str | None) -> None:
    question = Example("Where is a revolving door a security measure?", choices=("bank", "mall"))
    assert leak(guidance, question.text, "A", question.choices) == reason


def test_a_rationale_may_compute_but_not_say_the_answer() -> None:
    eggs = "There are 16 - 3 - 4 = 9 eggs left, each for 2 dollars."
    assert leak(eggs, DUCKS, "18") == "computation"
    assert leak(eggs, DUCKS, "18", computing=True) is None
    assert leak(f"{eggs} That makes 9 * 2 = 18 dollars.", DUCKS, "18", computing=True) == "answer"
    question = Example("What is 1 + 1?", choices=("two", "three"))
    assert leak("1 + 1 = 2, so (A).", question.text, "A", question.choices, computing=True) == "answer"
    statistics = Statistics()
    texts = [[f"{eggs} So 18.", eggs]]
    assert [each.guidance for each in select([Example(DUCKS, result="18")], texts, "rationale", 1, 0.8, statistics)]
    assert statistics.dropped == {"answer": 1}


def test_a_result_in_words_may_be_said_where_the_question_says_it() -> None:
    assert leak("It depends on whether blue is mixed in.", "Is it blue or green?", "blue") is None
    assert leak("It is surely red.", "Is it blue or green?", "red") == "answer"


numbers = st.integers(13, 10**6)


@settings(deadline=None)
@given(numbers, numbers, st.sampled_from(["{}", "{:,}", "{}.0", "${}", "{}%"]))
def test_any_number_in_any_form_is_a_leak_unless_the_question_has_it(known: int, other: int, form: str) -> None:
    question = f"A baker has {known} loaves. How many are left?"
    guidance = f"Look at the {form.format(other)} loaves."
    assert leak(guidance, question) == (None if other == known else "number")


def test_guidance_of_generated_problems_is_clean_and_their_answers_are_not() -> None:
    for problem in held_out_arithmetic(0):
        assert leak(problem.guidance, problem.question, problem.result) is None, problem
        assert leak(problem.answer, problem.question, problem.result) == "result marker"


def test_worked_solutions_leak_and_their_questions_do_not() -> None:
    """GSM8K's socratic form: sub-questions are guidance, its solutions compute."""
    entries = [
        json.loads(line) for line in shared("data/gsm8k/test_socratic.jsonl").read_text("utf-8").splitlines()[:300]
    ]
    solutions = questions = 0
    for entry in entries:
        lines, result = entry["answer"].rsplit("\n#### ", 1)
        asked, worked = zip(*(line.split(" ** ", 1) for line in lines.split("\n") if " ** " in line), strict=True)
        plain = re.sub(r"<<.*?>>", "", "\n".join(worked))
        solutions += leak(plain, entry["question"], result) is not None
        questions += leak("\n".join(asked), entry["question"], result) is None
    assert solutions >= 0.95 * len(entries)
    assert questions >= 0.85 * len(entries)


words = ["add", "the", "apples", "and", "pears", "then", "take", "half", "of", "what", "is", "left", "over"]
texts = st.lists(st.sampled_from(words), max_size=12)


@settings(deadline=None)
@given(st.lists(texts, max_size=8), st.floats(0.1, 1.0))
def test_duplicates_are_those_whose_trigrams_overlap(written: list[list[str]], near: float) -> None:
    """The witness compares every pair of texts."""
    duplicates, kept = Duplicates(near), list[list[str]]()

    def trigrams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    for words in written:
        pairs = [(trigrams(words), trigrams(other)) for other in kept]
        expected = "near" if any(len(a & b) >= near * len(a | b) for a, b in pairs) else None
        if words in kept:
            expected = "exact"
        assert duplicates.add("  ".join(words).title() + ".") == expected
        if expected is None:
            kept.append(words)


def test_what_is_kept_is_clean_new_and_counted() -> None:
    ducks = Example(DUCKS, result="18")
    pens = Example("Ann buys 3 pens for 4 dollars each. What does she pay?", result="12")
    good = "Asked: dollars. Steps: multiply 3 by 4."
    written = [["She makes 18.", "Take 3 and 4 from 16, then double."], [good, good + "!", "Multiply the pens' price."]]
    statistics = Statistics()
    kept = list(select([ducks, pens], written, "guidance", 1, 0.8, statistics))
    assert [(each.question, each.guidance) for each in kept] == [
        (ducks.question, "Take 3 and 4 from 16, then double."),
        (pens.question, good),
    ]
    assert statistics.to_json() == {
        "questions": 0,
        "samples": 5,
        "kept": 2,
        "served": 2,
        "dropped": {"answer": 1, "surplus": 2},
    }
    more = Statistics()
    assert len(list(select([ducks, pens], written, "guidance", 3, 0.8, more))) == 3
    assert more.dropped == {"answer": 1, "exact duplicate": 1}


def questions(path: Path, count: int) -> None:
    lines = [problem.to_json() for problem in held_out_arithmetic(0, count)]
    path.write_text("".join(json.dumps({k: line[k] for k in ("question", "result")}) + "\n" for line in lines))


def test_the_example_teaches_its_own_guidance_and_an_interrupted_run_ends_the_same(tmp_path: Path) -> None:
    import edgereason

    teacher = str(Path(edgereason.__file__).parent / "default_bundle")
    source, whole, resumed = tmp_path / "questions.jsonl", tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    questions(source, 6)
    request = TeacherRequest(samples=2, temperature=0.5, max_tokens=96)
    done: list[int] = []
    statistics = write_guidance(source, whole, teacher, request, report=lambda count, _: done.append(count))
    assert done == list(range(7))
    assert (statistics.questions, statistics.samples) == (6, 12)
    kept = [json.loads(line) for line in whole.read_text(encoding="utf-8").splitlines()]
    assert len(kept) == statistics.kept >= 5
    assert all(each["guidance"].startswith("Asked:") for each in kept)

    def interrupt(count: int, _: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_guidance(source, resumed, teacher, request, report=interrupt)
    assert not resumed.exists()
    with (tmp_path / "resumed.jsonl.samples").open("ab") as file:
        file.write(b'{"line": 4, "quest')  # cut in the middle of a line
    with pytest.raises(UsageError, match="was written for another question, teacher or request"):
        write_guidance(source, resumed, teacher, TeacherRequest(samples=3), report=None)
    write_guidance(source, resumed, teacher, request)
    assert resumed.read_bytes() == whole.read_bytes()
    assert (tmp_path / "resumed.jsonl.samples").read_bytes() == (tmp_path / "whole.jsonl.samples").read_bytes()
