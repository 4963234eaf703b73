"""What a word problem is built of: clauses, each a sentence with the computation that it stands for.

A clause's texts have slots, which `story.py` fills, and `[one|another]`, which chooses:

- `{X}` `{Y}` `{Z}`: the clause's arguments, amounts of people: their names. `{X.he}` `{X.him}` `{X.his}` are the
  pronouns. A problem's structure says which argument is who.
- `{a}` `{b}` ...: numbers of the question, in the ranges that the clause gives. `{a:times}` writes 2 as "twice" and 3
  as "three times", `{a:part}` 3 as "a third".
- `{items}` `{item}` `{goods}` `{good}` `{boxes}` `{box}` `{people}` and more words, the same ones in a whole problem.

A step is "target = expression". Capital letters are amounts: arguments, or the clause's own (a letter that is no
argument, such as `M` for money), which last until the end of the story; small letters are numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[int, int]

FEW: Range = (2, 12)
PARTS: Range = (2, 5)
TENS: Range = (2, 50)
COUNT: Range = (2, 200)
MANY: Range = (10, 1000)


@dataclass(frozen=True)
class StoryStep:
    """One computation.

    Attributes:
        computes: "target = expression", such as "X = Y + n".
        plan: How guidance puts it, as an instruction: "add {n} to the {items} of {Y}".
        result: What the target is called from then on: "the {items} of {X}".
        unit: What it counts: "{items}", "dollars".
    """

    computes: str
    plan: str
    result: str
    unit: str


@dataclass(frozen=True)
class Clause:
    """A sentence of a story.

    Attributes:
        says: Its wordings.
        given: What guidance notes of it.
        steps: The computations that it stands for.
        numbers: The range of each of its numbers.
    """

    says: tuple[str, ...]
    given: str
    steps: tuple[StoryStep, ...] = ()
    numbers: dict[str, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class StoryQuestion:
    """What a story ends with.

    Attributes:
        asks: Its wordings.
        asked: What guidance notes of it.
        answer: The letter of the amount that is asked for.
        steps: The computations that it needs beyond those of the story.
        numbers: The range of each of its numbers.
    """

    asks: tuple[str, ...]
    asked: str
    answer: str
    steps: tuple[StoryStep, ...] = ()
    numbers: dict[str, Range] = field(default_factory=dict)
