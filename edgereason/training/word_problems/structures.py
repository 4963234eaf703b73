"""The problems' structures: which clauses follow each other, and what is asked at the end.

"has A, more B A, both A B" reads: A has some; B has more than A; how many do A and B have together? The last entry is
the question. Names of clauses and questions are those of their own files, A, B and C are three people.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgereason.training.word_problems import groups, journeys, money, possessions
from edgereason.training.word_problems.clause import Clause, Question


@dataclass(frozen=True)
class Structure:
    """One kind of problem: clauses and a question, each with the people that are its arguments."""

    name: str
    clauses: tuple[tuple[Clause, str], ...]
    question: tuple[Question, str]

    @property
    def steps(self) -> int:
        """Computations that it needs."""
        every = [*(step for clause, _ in self.clauses for step in clause.steps), *self.question[0].steps]
        return sum(bool(step.plan) for step in every)


_POSSESSIONS = """
has A, gains A, count A
has_many A, loses A, count A
has_boxes A, count A
has A, more B A, count B
has A, times B A, count B
has_many A, part B A, count B
has_many A, shares A, share A
has_many A, loses_part A, count A
has_many A, loses_percent A, count A
has A, gains_dozens A, count A
has A, fewer B A, both A B
has A, more B A, both A B
has A, times B A, both A B
has A, times B A, difference B A
has A, has B, has C, all_three A B C
has A, more B A, times C B, count C
has A, more B A, fewer C B, all_three A B C
has A, more_than_times B A, count B
has A, more_than_times B A, both A B
has A, fewer_than_times B A, count B
has A, gains A, loses A, count A
has_many A, loses A, loses A, count A
has_boxes A, gains A, count A
has_boxes A, loses A, count A
has_boxes A, loses_part A, count A
has_boxes A, shares A, share A
has_boxes A, has B, both A B
has A, gains_daily A, count A
has A, gains_weekly A, count A
has A, gains_daily A, loses A, count A
has A, gains A, shares A, share A
has_many A, loses A, shares A, share A
has_many A, loses A, packs A, packed A
has_many A, loses_part A, loses A, count A
has_many A, loses_percent A, gains A, count A
has A, has B, gives A B, count B
has A, has B, gives A B, difference B A
has A, has B, average A B
has A, more B A, average A B
has A, has B, puts_together A B, shares A, share A
has A, sells_all A, money A
has A, gains A, sells_all A, money A
has_boxes A, loses A, sells_all A, money A
has A, sells_all A, spends A, money A
"""
_MONEY = """
buys A, cost A
buys A, pays_with A, change A
buys A, buys_too A, cost A
buys A, buys_too A, pays_with A, change A
buys A, discount A, cost A
buys A, coupon A, cost A
buys A, coupon A, delivery A, cost A
buys A, delivery A, splits_cost A, each_pays A
buys A, cents A
buys_one A, buys_dearer A, cost A
buys_one A, buys_dearer A, coupon A, cost A
buys_one A, discount A, pays_with A, change A
buys_one A, discount A, saves_for_it A, weeks A
buys_one A, saves_for_it A, weeks A
buys_one A, coupon A, saves_for_it A, weeks A
earns A, money A
earns A, spends_money A, money A
earns_for_days A, money A
earns_for_days A, spends_part A, money A
earns_for_days A, spends_money A, money A
has_money A, spends_percent A, money A
has_money A, spends_part A, gets_money A, money A
has_money A, gets_money A, buys_with_it A, bought A
has_money A, spends_money A, buys_with_it A, bought A
has_money A, gets_money A, missing A
"""
_JOURNEYS = """
travels A, way A
travels A, travels_on A, way A
travels A, walks_on A, way A
travels A, returns A, way A
travels A, walks_on A, returns A, way A
road A, has_gone A, rest_of_way A
road A, at_speed A, hours A
road A, has_gone A, at_speed A, hours A
road A, at_speed A, travel_minutes A
book A, read_daily A, pages_left A
book A, read_part A, pages_left A
book A, read_daily A, reads_rest A, days A
book A, read_part A, reads_rest A, days A
makes_hourly A, some_break A, made A
makes_hourly A, packed_by A, packages A
makes_hourly A, some_break A, packed_by A, packages A
makes_by_minute A, made A
makes_by_minute A, some_break A, made A
practices A, minutes A
practices A, in_hours A
practices_weekly A, minutes A
"""
_GROUPS = """
crowd A, some_leave A, some_come A, people A
crowd A, part_leaves A, people A
crowd A, percent_leaves A, some_come A, people A
crowd A, percent_have A, with_it A
crowd A, percent_have A, without_it A
crowd A, part_has A, without_it A
crowd A, some_leave A, teams A, teams A
rows A, some_come A, people A
rows A, part_leaves A, people A
rows A, each_pays A, takings A
crowd A, some_come A, each_pays A, takings A
age A, older B A, age B
age A, times_as_old B A, age B
age A, times_as_old B A, age_later B
age A, older B A, younger C B, age C
age A, times_as_old B A, ages A B
rope A, cut_off A, pieces A, pieces A
rope A, pieces_in_centimeters A, pieces A
rope A, cut_off A, pieces_in_centimeters A, pieces A
tank A, leaks A, water A
tank A, leaks A, jugs A, jugs A
"""

HELD_OUT = frozenset(
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
"""Structures that training never sees; each of their clauses occurs in others."""

_FILES = ((possessions, _POSSESSIONS), (money, _MONEY), (journeys, _JOURNEYS), (groups, _GROUPS))


def _structure(line: str) -> Structure:
    *clauses, question = (part.split() for part in line.split(", "))
    for file, _ in _FILES:
        if question[0] in file.QUESTIONS and all(clause[0] in file.CLAUSES for clause in clauses):
            return Structure(
                line,
                tuple((file.CLAUSES[name], "".join(people)) for name, *people in clauses),
                (file.QUESTIONS[question[0]], "".join(question[1:])),
            )
    raise ValueError(f"no file has all of {line!r}")


KNOWN = tuple(_structure(line) for _, lines in _FILES for line in lines.strip().splitlines() if line not in HELD_OUT)
"""The structures of training."""

UNKNOWN = tuple(_structure(line) for line in sorted(HELD_OUT))
"""The structures that are held out entirely."""
