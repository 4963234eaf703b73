"""Attempts, the labels of their steps, and the pairs that are made of them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import WORD_PROBLEMS

from edgereason.errors import UsageError
from edgereason.problems.records import Problem
from edgereason.training.chat_tokens import Chat
from edgereason.training.recipes.preference_pairs import pairs_by_process, pairs_by_result
from edgereason.training.recipes.preferences import prompt_of
from edgereason.training.recipes.step_labels import label, steps
from edgereason.training.sampling.attempts import Attempt, TrainingQuestion, attempt, read_training_questions
from edgereason.training.sampling.text_sampler import Opening, SampledText, SamplingSettings


def quiet(_: int, __: int) -> None: ...


class Walk:
    """A toy that adds up: each line is +1 or +2 on the line before, up to DEPTH lines, then the result.

    Its chance of the right result after any beginning is known exactly (`chance`).
    """

    DEPTH = 3

    def use(self, _: Path) -> None: ...

    def sample(self, openings: Sequence[Opening], settings: SamplingSettings, seed: int) -> list[list[SampledText]]:
        rng = random.Random(seed)
        return [[self._text(opening.written, rng) for _ in range(settings.count)] for opening in openings]

    def close(self) -> None: ...

    def _text(self, written: str, rng: random.Random) -> SampledText:
        lines, more = written.splitlines(), []
        if lines and lines[-1].startswith("####"):
            return SampledText("", True)
        value = int(lines[-1]) if lines else 0
        for _ in range(self.DEPTH - len(lines)):
            value += rng.choice((1, 2))
            more.append(f"{value}\n")
        return SampledText("".join(more) + f"#### {value}", True)

    def chance(self, written: str, result: int) -> Fraction:
        """Of the right result, over all ways to go on."""
        lines = written.splitlines()
        if lines and lines[-1].startswith("####"):
            return Fraction(lines[-1] == f"#### {result}")
        value = int(lines[-1]) if lines else 0
        if len(lines) == self.DEPTH:
            return Fraction(value == result)
        ways = [self.chance(f"{written}{value + step}\n", result) for step in (1, 2)]
        return sum(ways, Fraction()) / 2


QUESTIONS = [TrainingQuestion(f"To {result}: ", Problem("", str(result))) for result in (3, 4, 5, 6, 7)]


def test_labels_are_the_chances_of_the_right_result(tmp_path: Path) -> None:
    walk = Walk()
    attempts = attempt(walk, QUESTIONS, SamplingSettings(count=6), 1, tmp_path / "attempts.jsonl", quiet)
    found = label(walk, QUESTIONS, attempts, SamplingSettings(count=800), 2, tmp_path / "rollouts.jsonl", quiet)
    assert [(each.prompt, each.text) for each in found] == [(QUESTIONS[a.question].prompt, a.text) for a in attempts]
    certain = 0
    for tried, each in zip(attempts, found, strict=True):
        result, written = int(QUESTIONS[tried.question].problem.expected), ""
        for step, share in zip(steps(each.text), each.labels, strict=True):
            written += step
            chance = float(walk.chance(written, result))
            assert abs(share - chance) <= 4 * (chance * (1 - chance) / 800) ** 0.5  # exact where chance is 0 or 1
            certain += chance in (0, 1)
        assert each.labels[-1] == tried.right
    assert 0 < certain < sum(len(each.labels) for each in found)


def test_attempts_are_those_that_differ_and_right_where_the_result_is(tmp_path: Path) -> None:
    attempts = attempt(Walk(), QUESTIONS, SamplingSettings(count=50), 1, tmp_path / "attempts.jsonl", quiet)
    for number, question in enumerate(QUESTIONS):
        mine = [each for each in attempts if each.question == number]
        assert len({each.text for each in mine}) == len(mine) == 2**Walk.DEPTH  # all ways, each once
        assert sum(each.times for each in mine) == 50
        for each in mine:
            assert each.right is each.text.endswith(f"#### {question.problem.expected}")


def test_an_answer_that_ran_out_of_room_is_not_right() -> None:
    assert QUESTIONS[0].solved_by(SampledText("1\n2\n#### 3", ended=True))
    assert not QUESTIONS[0].solved_by(SampledText("1\n2\n#### 3", ended=False))
    assert QUESTIONS[0].solved_by(SampledText(" 3", ended=True), written="1\n####")


@given(st.text(alphabet="1a \n", max_size=12))
def test_steps_are_the_text_and_only_the_first_may_be_blank(text: str) -> None:
    found = steps(text)
    assert "".join(found) == text
    assert all(step.strip() for step in found[1:])
    assert all(len([line for line in step.splitlines() if line.strip()]) <= 1 for step in found)


def attempts_of(*rights: bool, scores: Sequence[float] = ()) -> list[Attempt]:
    padded = [*scores, *[0.5] * (len(rights) - len(scores))]
    return [Attempt(0, str(number), right, score=padded[number]) for number, right in enumerate(rights)]


@given(st.lists(st.booleans(), max_size=8), st.integers(1, 6), st.integers(0, 99))
def test_pairs_by_result_prefer_right_ones_and_are_all_where_there_is_room(
    rights: list[bool], most: int, seed: int
) -> None:
    found = pairs_by_result(attempts_of(*rights), most, seed)
    assert all(rights[int(pair.chosen)] and not rights[int(pair.rejected)] for pair in found)
    assert len(set(found)) == len(found) == min(most, sum(rights) * (len(rights) - sum(rights)))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=8), st.integers(1, 6), st.floats(0.05, 0.5))
def test_pairs_by_process_never_prefer_the_worse(tries: list[tuple[bool, float]], most: int, margin: float) -> None:
    rights, scores = [right for right, _ in tries], [score for _, score in tries]
    found = pairs_by_process(attempts_of(*rights, scores=scores), most, margin)
    for pair in found:
        better, worse = int(pair.chosen), int(pair.rejected)
        assert rights[better]
        assert not rights[worse] or scores[better] - scores[worse] >= margin
    used = [text for pair in found for text in (pair.chosen, pair.rejected)]
    assert len(set(used)) == len(used)
    assert len(found) <= most
    if any(rights) and not all(rights):  # the best of the right ones, and the worst of the wrong ones
        assert scores[int(found[0].chosen)] == max(score for right, score in tries if right)
        assert scores[int(found[0].rejected)] == min(score for right, score in tries if not right)


def test_what_the_model_did_not_end_is_in_no_pair() -> None:
    tries = [Attempt(0, "a", True, score=0.9), Attempt(0, "b", False, ended=False, score=0.1)]
    assert pairs_by_result(tries, 4, 0) == pairs_by_process(tries, 4, 0.1) == []


def test_questions_are_read_with_the_prompts_of_inference(tmp_path: Path) -> None:
    data, chat, prompt = tmp_path / "data.jsonl", Chat(WORD_PROBLEMS / "base"), prompt_of(WORD_PROBLEMS / "answer")
    lines = [
        {"question": "How many?", "guidance": "Count.", "result": "1,200"},
        {"question": "How many?", "answer": "3 + 4 = 7\n#### 7"},
        {"question": "Which?", "choices": ["this", "that"], "result": "B"},
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    first, second, third = read_training_questions(data, chat, prompt, 1024)
    assert first.prompt == chat.prompt(prompt, "How many?", "Count.")
    assert first.solved_by(SampledText("600 + 600 = 1200\n#### 1200", True))
    assert second.prompt == chat.prompt(prompt, "How many?")
    assert second.solved_by(SampledText("#### 7.0", True))
    assert "(A) this\n(B) that" in third.prompt
    assert third.solved_by(SampledText("#### (B)", True))
    assert not third.solved_by(SampledText("#### (A)", True))


def test_a_line_without_a_result_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(
        '{"question": "a", "result": "1"}\n{"question": "b", "answer": "I do not know"}\n', encoding="utf-8"
    )
    with pytest.raises(UsageError, match=r"data\.jsonl:2 does not say what the right result is"):
        read_training_questions(data, Chat(WORD_PROBLEMS / "base"), prompt_of(WORD_PROBLEMS / "answer"), 1024)


def test_a_question_that_fills_the_context_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines = [{"question": "How many?", "result": "1"}, {"question": "How many? " * 400, "result": "1"}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.jsonl:2 gives a prompt of [\d,]+ tokens, which fills .* 1,024"):
        read_training_questions(data, Chat(WORD_PROBLEMS / "base"), prompt_of(WORD_PROBLEMS / "answer"), 1024)
