"""How a textbook prints worked problems, and plain sentences of its vocabulary."""

from __future__ import annotations

import random

from edgereason.problems.words import choose, fill, sample_words
from edgereason.problems.worked_problem import WorkedProblem

# How textbooks set a problem, its plan and its solution; the stages' chat prompts are left to the adapters.
_LAYOUTS = (
    "{question}\n\n{guidance}\n\n{answer}",
    "Question: {question}\nGuidance:\n{guidance}\nAnswer:\n{answer}",
    "Problem: {question}\n\nPlan:\n{guidance}\n\nSolution:\n{answer}",
    "{question}\n{guidance}\n{answer}",
    "Exercise. {question}\n\n{guidance}\n\nComputation:\n{answer}",
)
_LAYOUTS_ALONE = ("{question}\n{answer}", "Question: {question}\nAnswer:\n{answer}", "Q: {question}\n\nA: {answer}")

_SENTENCES = (
    "{name} [lives|works|plays|reads|waits] [near|in|at] the {place}.",
    "{name} and {other} are [good friends|neighbors|classmates|at the {place}].",
    "The {items} in the {box} are {color}[ and the {goods} are {hue}|].",
    "On {day}, {name} [goes|walks|runs] to the {place} with {other}.",
    "{name} likes {items}, but {other} likes {goods} [more|better].",
    "[This|That|Every|The new|The old] {item} is {color}.",
    "There [are|were] [some|many|few|no] {items} [on the table|in the {box}|at the {place}].",
    "{name} [buys|sells|finds|makes|paints|keeps] a {good} for {other}.",
    "The {people} [share|count|want|bring] the {items}.",
    "How many {items} [are there|are left|does {name} have]? {name} [counts them|does not know|asks {other}].",
    "[First|Then|Later|After that], {name} [puts|packs|leaves] the {items} in a {box}.",
    "A week has seven days. {day} is one of them.",
    "To find out how many are left, subtract. To find out how many there are together, add.",
    "To share equally, divide. To count equal groups, multiply.",
    "Twice as many means two times the number. Half as many means the number divided by two.",
    "The number {digits} is written {number}.",
    "{Number} is the number {digits}.",
    # Questions whose answers are words of the text, so that copying the right ones is learned early.
    "{name} [lives|works|plays] near the {place}. Who [lives|works|plays] near the {place}? {name}.",
    "{name} has a {color} {good} and {other} has a {hue} {thing}. Who has the {thing}? {other}.",
    "{name} has a {color} {good} and {other} has a {hue} {thing}. Who has the {good}? {name}.",
    "{name} gives {other} a {good}. Who gets the {good}? {other}. Who gives it? {name}.",
    "{name}, {other} and {third} are in the {place}. Who is there? {name}, {other} and {third}.",
    "{name} likes {items}. What does {name} like? {He} likes {items}.",
    "{Items} and {goods} are in the {boxes}. What is in the {boxes}? {Items} and {goods}.",
    "{other} asked {name} what the {good} costs. It [is|was] [cheap|not cheap].",
)


def set_in_print(rng: random.Random, problem: WorkedProblem) -> tuple[str, str]:
    """A problem as a textbook prints it, mostly with its guidance: the question, and what follows it."""
    layout = rng.choice(_LAYOUTS) if rng.random() < 0.85 else rng.choice(_LAYOUTS_ALONE)
    head, question, tail = layout.partition("{question}")
    return (head + question).format(question=problem.question), tail.format(
        guidance=problem.guidance, answer=problem.answer
    )


def sentences(rng: random.Random, count: int = 4) -> str:
    """Plain sentences of the problems' vocabulary."""
    return " ".join(fill(choose(rng, rng.choice(_SENTENCES)), sample_words(rng)) for _ in range(count))
