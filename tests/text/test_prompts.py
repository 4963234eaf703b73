"""The stages' prompts and the final result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgereason.errors import BundleError
from edgereason.problems.final_result import final_result
from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        ("16 - 3 = 13\n#### 13", "13"),
        ("#### 1\nno, wait\n#### 2", "2"),
        ("#### $1,200.50\nThank you.", "$1,200.50"),
        ("She has 1,200 left", "1200"),
        ("It costs $3.50", "3.50"),
        ("I cannot tell.", None),
        ("12 - 5 = 7\n####", "7"),
        ("", None),
    ],
)
def test_final_result_is_what_the_answer_ends_with(answer: str, final: str | None) -> None:
    assert final_result(answer) == final


def test_a_question_with_a_placeholder_in_it_stays_as_it_is() -> None:
    messages = ANSWER.messages("What is {guidance}?", "Think of {question}.")
    assert messages[-1]["content"] == "What is {guidance}?\n\nGuidance:\nThink of {question}."


def test_without_guidance_the_question_stands_alone() -> None:
    assert ANSWER.messages("How many?")[-1]["content"] == "How many?"
    assert GUIDANCE.messages("How many?")[-1]["content"] == "How many?"


def test_prompts_survive_json() -> None:
    for prompt in (ANSWER, replace(ANSWER, history=False), replace(ANSWER, calculator=True)):
        assert Prompt.from_json(prompt.to_json(), "here") == prompt


CALCULATING = {"system": "", "user": "", "calculator": "yes"}


@pytest.mark.parametrize(
    "value", [None, [], {"system": "s"}, {"system": "s", "user": 1}, {"x": "", "user": ""}, CALCULATING]
)
def test_what_is_not_a_prompt_is_refused(value: object) -> None:
    with pytest.raises(BundleError, match=r"prompt\.json"):
        Prompt.from_json(value, "prompt.json")
