"""The problems' structures: which clauses follow each other, and what is asked at the end.

"has A, more B A, both A B" reads: A has some; B has more than A; how many do A and B have together? The last entry is
the question. Names of clauses and questions are those of their own files, A, B and C are three people.

Structures are not listed but composed, by the hundreds: a model that sees few of them learns those by heart instead of
their clauses.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import overload

from edgereason.problems.word_problems import groups, journeys, money, possessions
from edgereason.problems.word_problems.clause import Clause, StoryQuestion, StoryStep

MOST_STEPS = 4


@dataclass(frozen=True)
class Structure:
    """One kind of problem: clauses and a question, each with the people that are its arguments.

    Attributes:
        pattern: The pattern that it was composed by.
    """

    name: str
    clauses: tuple[tuple[Clause, str], ...]
    question: tuple[StoryQuestion, str]
    pattern: int = 0

    @property
    def parts(self) -> tuple[tuple[Clause | StoryQuestion, str], ...]:
        """Clauses and question, in the order in which they are told."""
        return (*self.clauses, self.question)

    @property
    def steps(self) -> int:
        """Computations that it needs."""
        return sum(bool(step.plan) for part, _ in self.parts for step in part.steps)


class Pool(Sequence[Structure]):
    """Structures to sample from, so that every pattern and number of steps has its share."""

    def __init__(self, structures: Iterable[Structure]) -> None:
        self._structures = tuple(structures)
        kinds: dict[tuple[int, int], list[Structure]] = defaultdict(list)
        for structure in self._structures:
            kinds[structure.pattern, structure.steps].append(structure)
        self._kinds = list(kinds.values())
        # Kinds of few structures have less to teach; from some number on, more of them need no more room.
        self._weights = [min(len(kind), _FULL_WEIGHT) for kind in self._kinds]

    @overload
    def __getitem__(self, index: int) -> Structure: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Structure, ...]: ...
    def __getitem__(self, index: int | slice) -> Structure | tuple[Structure, ...]:
        return self._structures[index]

    def __len__(self) -> int:
        return len(self._structures)

    def sample(self, rng: random.Random) -> Structure:
        """One structure; the state of `rng` determines it."""
        [kind] = rng.choices(self._kinds, self._weights)
        return rng.choice(kind)


_FULL_WEIGHT = 10

# A pattern's places, one after the other, and what may stand in each; "-" is nothing.
_CHANGES = (
    "- | gains A | loses A | gains_daily A | gains_weekly A | gains_dozens A | loses_part A | loses_percent A"
    " | gains_and_gives A B | loses_and_gains A"
)
_CHANGES_OF_TWO = (
    "- | gains A | loses A | gains B | loses B | gives A B | gives B A | gains_dozens B | loses_part A"
    " | loses_percent B | loses_and_gains B | gains_daily A"
)
_ENDS_OF_TWO = (
    "count A | count B | both A B | difference A B | difference B A | average A B"
    + " | puts_together A B, shares A, share A"
)
_RELATIONS = "more B A | fewer B A | times B A | part B A | more_than_times B A | fewer_than_times B A | has B"
_PRICE_CHANGES = "- | discount A | coupon A | delivery A"
_MONEY_CHANGES = "- | gets_money A | spends_money A | spends_part A | spends_percent A"
_LEGS = "- | travels_on A | walks_on A | returns A"
_READING = "- | read_daily A | read_part A"
_COMING = "- | some_leave A | some_come A | part_leaves A | percent_leaves A"

_PATTERNS: tuple[tuple[str, ...], ...] = (
    (
        "has A | has_many A | has_boxes A | has_and_gains A | has_and_loses A",
        _CHANGES,
        _CHANGES,
        _CHANGES,
        "count A | count_his A | shares A, share A | packs A, packed A | sells_all A, money A"
        " | sells_all A, spends A, money A",
    ),
    ("has A | has_many A | has_boxes A | has_and_gains A | has_and_loses A", _RELATIONS, _CHANGES_OF_TWO, _ENDS_OF_TWO),
    ("have A B", _CHANGES_OF_TWO, _CHANGES_OF_TWO, _ENDS_OF_TWO),
    (
        "has A | has_boxes A",
        _RELATIONS,
        "more C B | fewer C B | times C B | part C B | more C A | fewer C A | times C A | more_than_times C B | has C",
        "count C | all_three A B C",
    ),
    (
        "buys A",
        "- | buys_too A",
        _PRICE_CHANGES,
        _PRICE_CHANGES,
        "cost A | pays_with A, change A | splits_cost A, each_pays A | cents A",
    ),
    (
        "buys_one A",
        "- | buys_too A | buys_dearer A",
        _PRICE_CHANGES,
        _PRICE_CHANGES,
        "cost A | pays_with A, change A | splits_cost A, each_pays A | saves_for_it A, weeks A",
    ),
    (
        "has_money A | earns A | earns_for_days A",
        _MONEY_CHANGES,
        _MONEY_CHANGES,
        _MONEY_CHANGES,
        "money A | buys_with_it A, bought A | missing A",
    ),
    ("travels A", _LEGS, _LEGS, _LEGS, "way A"),
    ("road A", "- | has_gone A", "at_speed A, hours A | at_speed A, travel_minutes A | rest_of_way A"),
    ("book A", _READING, _READING, "pages_left A | reads_rest A, days A"),
    ("makes_hourly A | makes_by_minute A", "- | some_break A", "made A | packed_by A, packages A"),
    ("practices A | practices_weekly A", "minutes A | in_hours A"),
    (
        "crowd A | rows A",
        _COMING,
        _COMING,
        _COMING,
        "people A | teams A, teams A | each_pays A, takings A | percent_have A, with_it A"
        " | percent_have A, without_it A | part_has A, with_it A | part_has A, without_it A",
    ),
    (
        "age A",
        "older B A | younger B A | times_as_old B A",
        "- | older C B | younger C B | times_as_old C B | older C A | younger C A",
        "age B | age C | age_later B | age_later C | ages A B | ages B C",
    ),
    ("rope A", "- | cut_off A", "- | cut_off A", "pieces A, pieces A | pieces_in_centimeters A, pieces A"),
    ("tank A", "- | leaks A", "- | leaks A", "water A | jugs A, jugs A"),
)

CHOSEN = frozenset(
    """
has A, times B A, difference B A
has A, more B A, times C B, count C
has A, fewer_than_times B A, both A B
has_boxes A, gains A, shares A, share A
has_boxes A, loses_percent A, count A
has_many A, loses_percent A, shares A, share A
has A, gains_dozens A, loses A, count A
has A, has B, gives A B, both A B
has_boxes A, sells_all A, spends A, money A
has A, times B A, average A B
has A, gains_and_gives A B, loses A, count A
has_boxes A, gains_and_gives A B, count A
have A B, gains A, both A B
buys A, discount A, pays_with A, change A
buys A, buys_too A, coupon A, cost A
buys A, buys_too A, splits_cost A, each_pays A
buys_one A, delivery A, saves_for_it A, weeks A
earns A, spends_part A, money A
earns_for_days A, gets_money A, money A
has_money A, spends_percent A, gets_money A, money A
earns A, buys_with_it A, bought A
travels A, travels_on A, walks_on A, way A
travels A, walks_on A, travels_on A, way A
road A, has_gone A, at_speed A, travel_minutes A
book A, read_part A, read_daily A, pages_left A
makes_by_minute A, packed_by A, packages A
crowd A, part_leaves A, some_come A, people A
rows A, percent_leaves A, people A
crowd A, part_leaves A, each_pays A, takings A
age A, times_as_old B A, younger C B, age C
tank A, jugs A, jugs A
""".strip().splitlines()
)
"""Structures that are held out whatever else is."""

_FILES = (possessions, money, journeys, groups)


def _compose() -> Iterator[Structure]:
    """Every structure of one to four steps all of which its answer needs."""
    for number, places in enumerate(_PATTERNS):
        choices = [[each.strip() for each in place.split("|")] for place in places]
        lines = dict.fromkeys(", ".join(part for part in parts if part != "-") for parts in product(*choices))
        for line in lines:
            structure = _structure(line, number)
            if 1 <= structure.steps <= MOST_STEPS and _needs_every_step(structure):
                yield structure


def _structure(line: str, pattern: int) -> Structure:
    *clauses, question = (part.split() for part in line.split(", "))
    file = next(file for file in _FILES if question[0] in file.QUESTIONS and clauses[0][0] in file.CLAUSES)
    return Structure(
        line,
        tuple((file.CLAUSES[name], "".join(people)) for name, *people in clauses),
        (file.QUESTIONS[question[0]], "".join(question[1:])),
        pattern,
    )


def _needs_every_step(structure: Structure) -> bool:
    """Whether all amounts exist when they are used, and no computed one is forgotten."""
    needs: dict[str, set[int]] = {}
    count = 0
    for part, people in structure.parts:
        who = dict(zip("XYZ", people, strict=False))
        for step in part.steps:
            target, *operands = _amounts(step, who)
            if any(operand not in needs for operand in operands):
                return False
            needs[target] = set().union(*(needs[operand] for operand in operands))
            if step.plan:
                needs[target].add(count)
                count += 1
    answer = structure.question[0].answer
    return len(needs.get(dict(zip("XYZ", structure.question[1], strict=False)).get(answer, answer), ())) == count


def _amounts(step: StoryStep, who: Mapping[str, str]) -> list[str]:
    """The letters of a step's amounts, its target first, people in place of arguments."""
    letters = [word for word in step.computes.split() if word.isupper()]
    return [who.get(letter, letter) for letter in letters]


def _is_held_out(structure: Structure) -> bool:
    return structure.name in CHOSEN or zlib.crc32(structure.name.encode()) % 5 == 0


_EVERY = tuple(_compose())

KNOWN = Pool(structure for structure in _EVERY if not _is_held_out(structure))
"""The structures of training."""

UNKNOWN = Pool(structure for structure in _EVERY if _is_held_out(structure))
"""The structures that are held out entirely: a fifth, and those of `CHOSEN`."""
