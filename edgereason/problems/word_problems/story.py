"""From a structure to a question, its guidance and its worked answer."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

from edgereason.problems.word_problems.clause import Clause, Range, StoryQuestion, StoryStep
from edgereason.problems.word_problems.possessions import CLAUSES
from edgereason.problems.word_problems.structures import KNOWN, Pool, Structure
from edgereason.problems.words import FOOD, HE, choose, sample_words
from edgereason.problems.worked_problem import WorkedProblem, question_key
from edgereason.text.calculator import evaluate, written

LARGEST_GIVEN = 1000
"""No number in a question exceeds this."""
LARGEST = 10_000
"""No result exceeds this."""

_SLOT = re.compile(r"\{([A-Za-z]+)(?:([.:])(\w+))?\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio])")
_TIMES = {2: "twice"}
_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_PEOPLE = {"A": "name", "B": "other", "C": "third"}
_ROUND = 5  # percentages are multiples of it

_AN_AGE = "{X} is {n} years old."
_DISTRACTORS = (
    _AN_AGE,
    "It is {n} minutes past two.",
    "{X} lives in a house with {n} windows.",
    "The {place} opens at {hour} o'clock.",
    "There are {n} trees in front of the {place}.",
    "{X} has a {color} {thing} that is {n} years old.",
    "On {day}, {n} birds sit on the roof of the {place}.",
)
_DISTRACTED = 0.15
_OWNS = CLAUSES["has"]
_CHANGING = [CLAUSES[name] for name in ("gains", "loses", "more", "fewer", "gives")]
_CHANGES = (2, 6)
"""How often amounts change in accounts."""
_TRIES = 50
"""How often numbers are sampled for a structure; of some, few or none come out even, and another takes their place."""


class _ImpossibleError(Exception):
    """These numbers do not come out even."""


@dataclass
class _Amount:
    label: str
    value: Fraction


@dataclass
class _Story:
    """A story that is being told.

    Attributes:
        people: Who has occurred so far.
    """

    rng: random.Random
    words: dict[str, str]
    people: set[str] = field(default_factory=set)
    amounts: dict[str, _Amount] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    plan: list[str] = field(default_factory=list)
    work: list[str] = field(default_factory=list)
    result: Fraction = Fraction(0)

    def note(self, clause: Clause, people: str) -> None:
        """Take a clause into what is given, without a sentence."""
        _, note = self.tell(clause, clause.says, clause.given, people)
        self.given.append(note)

    def tell(self, part: Clause | StoryQuestion, says: Sequence[str], note: str, people: str) -> tuple[str, str]:
        """Sample a part's numbers and take its steps; returns its sentence and guidance's note of it, slots filled."""
        who = dict(zip("XYZ", people, strict=False))
        numbers = {name: _sample_number(self.rng, name, limits, says) for name, limits in part.numbers.items()}
        for step in part.steps:
            self._take(step, who, numbers)
        clear = [text for text in says if not self._ambiguous(text, who)]
        self.people.update(who.values())
        return self._fill(choose(self.rng, self.rng.choice(clear)), who, numbers), self._fill(note, who, numbers)

    def _ambiguous(self, text: str, who: Mapping[str, str]) -> bool:
        """Whether a sentence begins with "he" or "she" where two of those whom it could mean have occurred."""
        if not text.startswith("{X.He}"):
            return False
        he = self.words[_PEOPLE[who["X"]]] in HE
        return any((self.words[_PEOPLE[other]] in HE) == he for other in self.people - {who["X"]})

    def _take(self, step: StoryStep, who: Mapping[str, str], numbers: Mapping[str, int]) -> None:
        target, _, right = step.computes.partition(" = ")
        # A person's amount is known by the person, one of a clause's own by its letter in small.
        names = [who.get(word, word.lower()) if word.isupper() else word for word in right.split()]
        operands = [self.amounts[name].value if name in self.amounts else numbers.get(name, name) for name in names]
        expression = "".join(written(Fraction(each)) if not isinstance(each, str) else each for each in operands)
        value = evaluate(expression)
        if value is None or value.denominator != 1 or not 1 <= value <= LARGEST:
            raise _ImpossibleError
        known = [self.amounts[name] for name in names if name in self.amounts]
        label = self._fill(step.result, who, numbers)
        self.amounts[who.get(target, target.lower())] = _Amount(label, value)
        if step.plan:
            self.plan.append(self._fill(step.plan, who, numbers))
            said = _looked_up(known, first=names[0] in self.amounts)
            result = f"{written(value)}; {label}: {written(value)} {self._fill(step.unit, who, numbers)}"
            self.work.append(f"{said}{expression} = <<{expression}={written(value)}>>{result}")

    def _fill(self, template: str, who: Mapping[str, str], numbers: Mapping[str, int]) -> str:
        def value(match: re.Match[str]) -> str:
            slot, kind, form = match.groups()
            if slot in who:
                name = self.words[_PEOPLE[who[slot]]]
                return _pronoun(name, form) if kind == "." else name
            if slot in numbers:
                return _number(numbers[slot], form)
            return self.words[slot]

        return _ARTICLE.sub(r"\1n ", _SLOT.sub(value, template))

    def distract(self) -> None:
        """Say something that has nothing to do with the question."""
        numbers = {"n": self.rng.randint(2, 90), "hour": self.rng.randint(6, 11)}
        about_ages = any(amount.label.startswith("the age of") for amount in self.amounts.values())
        says = [text for text in _DISTRACTORS if not (about_ages and text == _AN_AGE)]  # it would contradict the story
        sentence = self._fill(self.rng.choice(says), {"X": "A"}, numbers)
        self.sentences.insert(self.rng.randint(0, len(self.sentences)), sentence)


def sample_problem(rng: random.Random, structures: Pool = KNOWN) -> WorkedProblem:
    """One problem; the state of `rng` determines it."""
    while True:
        structure = structures.sample(rng)
        for _ in range(_TRIES):
            with suppress(_ImpossibleError):
                return _tell(_Story(rng, _sample_words(rng)), structure)


def sample_accounts(rng: random.Random) -> tuple[str, str]:
    """What three people own while it changes hands, told as guidance tells it; nothing is asked.

    It teaches whose amount a step means, and what it is by now.

    Returns:
        What is given with the steps, and the steps' work; the state of `rng` determines them.
    """
    while True:
        story = _Story(rng, _sample_words(rng))
        with suppress(_ImpossibleError):
            for person in rng.sample("ABC", 3):
                story.note(_OWNS, person)
            for _ in range(rng.randint(*_CHANGES)):
                story.note(rng.choice(_CHANGING), "".join(rng.sample("ABC", 2)))
            return f"Given: {'; '.join(story.given)}.\nSteps: {', then '.join(story.plan)}.\n", "\n".join(story.work)


def problems(
    seed: int | str, exclude: Collection[str] = frozenset(), structures: Pool = KNOWN
) -> Iterator[WorkedProblem]:
    """An endless stream of problems whose `question_key` is not in `exclude`; repeats are possible."""
    rng = random.Random(seed)
    while True:
        problem = sample_problem(rng, structures)
        if question_key(problem.question) not in exclude:
            yield problem


def held_out(seed: int, count: int, structures: Pool = KNOWN) -> list[WorkedProblem]:
    """`count` different problems that training excludes."""
    found: dict[str, WorkedProblem] = {}
    for problem in islice(problems(f"{seed}/held out", found, structures), count):
        found[question_key(problem.question)] = problem
    return list(found.values())


def _tell(story: _Story, structure: Structure) -> WorkedProblem:
    for clause, people in structure.clauses:
        sentence, note = story.tell(clause, clause.says, clause.given, people)
        story.sentences.append(sentence)
        story.given.append(note)
    question, people = structure.question
    asks, asked = story.tell(question, question.asks, question.asked, people)
    who = dict(zip("XYZ", people, strict=False))
    result = written(story.amounts[who.get(question.answer, question.answer.lower())].value)
    if story.rng.random() < _DISTRACTED:
        story.distract()
    guidance = [f"Asked: {asked}.", f"Given: {'; '.join(story.given)}.", f"Steps: {', then '.join(story.plan)}."]
    return WorkedProblem(
        " ".join([*story.sentences, asks]),
        "\n".join(guidance),
        "\n".join([*story.work, f"#### {result}"]),
        result,
        structure.name,
    )


def _sample_words(rng: random.Random) -> dict[str, str]:
    words = sample_words(rng)
    eaten = words["item"] in FOOD
    return {
        **words,
        "things": f"{words['thing']}s" if not words["thing"].endswith(("s", "h")) else f"{words['thing']}es",
        "uses": "eats" if eaten else "uses",
        "used": "ate" if eaten else "used",
    }


def _looked_up(amounts: Sequence[_Amount], first: bool) -> str:
    """The amounts that an expression needs, by name, so that each is found by what stands before it."""
    if first and len(amounts) == 1:
        return f"{amounts[0].label}: "
    return "".join(f"{amount.label}: {written(amount.value)}; " for amount in amounts)


def _sample_number(rng: random.Random, name: str, limits: Range, says: Sequence[str]) -> int:
    """A number within `limits`, smaller ones more often; round where it is a percentage."""
    low, high = limits
    number = rng.randint(low, rng.randint(low, high))
    if any(f"{{{name}:percent}}" in text for text in says):
        return max(_ROUND, number - number % _ROUND)
    return number


def _number(number: int, form: str | None) -> str:
    if form == "times":
        return _TIMES.get(number, f"{_NUMBERS[number]} times")
    if form == "percent":
        return f"{number}%"
    if form in ("part", "Part"):
        return _PARTS[number] if form == "part" else _PARTS[number].capitalize()
    return str(number)


def _pronoun(name: str, form: str) -> str:
    male = {"he": "he", "him": "him", "his": "his"}
    word = male[form.lower()] if name in HE else {"he": "she", "him": "her", "his": "her"}[form.lower()]
    return word.capitalize() if form[0].isupper() else word
