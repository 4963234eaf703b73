"""Clauses about crowds, ages, lengths and amounts of things."""

from __future__ import annotations

from edgereason.problems.word_problems.clause import COUNT, FEW, MANY, PARTS, TENS, Clause, StoryQuestion, StoryStep


def _crowd(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the {people}", "{people}")


def _age(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the age of {X}", "years")


CLAUSES = {
    "crowd": Clause(
        ("There are {a} {people} in the {place}.", "{a} {people} come to the {place}."),
        "there are {a} {people}",
        (StoryStep("N = a", "", "the {people}", "{people}"),),
        {"a": MANY},
    ),
    "rows": Clause(
        ("There are {a} rows of {b} chairs in the {place}, and {people} sit on all of them.",),
        "{people} sit in {a} rows of {b}",
        (_crowd("N = a * b", "multiply the {a} rows by {b}"),),
        {"a": TENS, "b": FEW},
    ),
    "some_leave": Clause(
        ("{a} of the {people} [leave|go home].", "Then {a} {people} [leave|go home]."),
        "{a} of them leave",
        (_crowd("N = N - a", "subtract the {a} who leave"),),
        {"a": COUNT},
    ),
    "some_come": Clause(
        ("{a} more {people} [come|arrive].", "Later, {a} other {people} [join them|arrive]."),
        "{a} more come",
        (_crowd("N = N + a", "add the {a} who come"),),
        {"a": COUNT},
    ),
    "part_leaves": Clause(
        ("{a:Part} of the {people} [leave|go home].", "After an hour, {a:part} of the {people} [leave|go home]."),
        "{a:part} of them leave",
        (
            StoryStep("L = N / a", "divide the {people} by {a}", "those who leave", "{people}"),
            _crowd("N = N - L", "subtract those who leave"),
        ),
        {"a": PARTS},
    ),
    "percent_leaves": Clause(
        ("{a:percent} of the {people} [leave|go home].",),
        "{a:percent} of them leave",
        (
            StoryStep("L = N * a / 100", "take {a:percent} of the {people}", "those who leave", "{people}"),
            _crowd("N = N - L", "subtract those who leave"),
        ),
        {"a": (5, 90)},
    ),
    "percent_have": Clause(
        ("{a:percent} of the {people} have a {color} {good}.",),
        "{a:percent} of them have a {color} {good}",
        (StoryStep("F = N * a / 100", "take {a:percent} of the {people}", "those with a {color} {good}", "{people}"),),
        {"a": (5, 90)},
    ),
    "part_has": Clause(
        ("{a:Part} of the {people} [have|own] a {color} {good}.",),
        "{a:part} of them have a {color} {good}",
        (StoryStep("F = N / a", "divide the {people} by {a}", "those with a {color} {good}", "{people}"),),
        {"a": PARTS},
    ),
    "teams": Clause(
        ("The {people} form teams of {a}.", "They [play|work] in teams of {a}."),
        "they form teams of {a}",
        (StoryStep("G = N / a", "divide the {people} by {a}", "the teams", "teams"),),
        {"a": FEW},
    ),
    "each_pays": Clause(
        ("Each of them pays {a} dollars.", "A ticket costs {a} dollars for each of them."),
        "each pays {a} dollars",
        (StoryStep("M = N * a", "multiply the {people} by {a} dollars", "the money", "dollars"),),
        {"a": FEW},
    ),
    "age": Clause(
        ("{X} is {a} years old.",),
        "{X} is {a} years old",
        (StoryStep("X = a", "", "the age of {X}", "years"),),
        {"a": TENS},
    ),
    "older": Clause(
        ("{X} is {a} years older than {Y}.",),
        "{X} is {a} years older than {Y}",
        (_age("X = Y + a", "add {a} to the age of {Y}"),),
        {"a": FEW},
    ),
    "younger": Clause(
        ("{X} is {a} years younger than {Y}.",),
        "{X} is {a} years younger than {Y}",
        (_age("X = Y - a", "subtract {a} from the age of {Y}"),),
        {"a": FEW},
    ),
    "times_as_old": Clause(
        ("{X} is {a:times} as old as {Y}.",),
        "{X} is {a:times} as old as {Y}",
        (_age("X = Y * a", "multiply the age of {Y} by {a}"),),
        {"a": (2, 4)},
    ),
    "rope": Clause(
        ("A rope is {a} meters long.", "{X} has a rope of {a} meters."),
        "the rope is {a} meters long",
        (StoryStep("L = a", "", "the rope", "meters"),),
        {"a": COUNT},
    ),
    "cut_off": Clause(
        ("{X} cuts off {a} meters.", "{a} meters of it are cut off."),
        "{a} meters are cut off",
        (StoryStep("L = L - a", "subtract the {a} meters", "the rest", "meters"),),
        {"a": TENS},
    ),
    "pieces": Clause(
        ("{X} cuts it into pieces of {a} meters.", "It is cut into pieces of {a} meters each."),
        "a piece is {a} meters long",
        (StoryStep("P = L / a", "divide the length by {a} meters", "the pieces", "pieces"),),
        {"a": FEW},
    ),
    "pieces_in_centimeters": Clause(
        ("{X} cuts it into pieces of {a} centimeters.",),
        "a piece is {a} centimeters long",
        (
            StoryStep("Q = L * 100", "turn the meters into centimeters, 100 for each", "the length", "centimeters"),
            StoryStep("P = Q / a", "divide the length by {a} centimeters", "the pieces", "pieces"),
        ),
        {"a": TENS},
    ),
    "tank": Clause(
        ("{a} liters of water flow into a tank every minute for {b} minutes.",),
        "{a} liters a minute flow in for {b} minutes",
        (StoryStep("V = a * b", "multiply {a} liters a minute by {b} minutes", "the water", "liters"),),
        {"a": TENS, "b": FEW},
    ),
    "leaks": Clause(
        ("{a} liters leak out.", "Then {a} liters are taken out."),
        "{a} liters go out",
        (StoryStep("V = V - a", "subtract the {a} liters", "the water", "liters"),),
        {"a": TENS},
    ),
    "jugs": Clause(
        ("The water is poured into jugs of {a} liters.",),
        "a jug holds {a} liters",
        (StoryStep("J = V / a", "divide the water by {a} liters", "the jugs", "jugs"),),
        {"a": FEW},
    ),
}

QUESTIONS = {
    "people": StoryQuestion(
        ("How many {people} are there [now|then|in the end]?", "How many {people} are in the {place} [now|then]?"),
        "how many {people} there are in the end",
        "N",
    ),
    "with_it": StoryQuestion(
        ("How many {people} have one?", "How many of them have a {color} {good}?"), "how many have one", "F"
    ),
    "without_it": StoryQuestion(
        ("How many {people} have none?", "How many of them do not have a {color} {good}?"),
        "how many have none",
        "O",
        (StoryStep("O = N - F", "subtract those who have one from all", "the others", "{people}"),),
    ),
    "teams": StoryQuestion(("How many teams are there?", "How many teams is that?"), "how many teams there are", "G"),
    "takings": StoryQuestion(
        ("How many dollars do they pay [altogether|in total]?", "How many dollars is that?"),
        "how many dollars they pay altogether",
        "M",
    ),
    "age": StoryQuestion(("How old is {X}?", "How many years old is {X}?"), "how old {X} is", "X"),
    "age_later": StoryQuestion(
        ("How old will {X} be in {a} years?", "How old is {X} {a} years from now?"),
        "how old {X} is in {a} years",
        "A",
        (StoryStep("A = X + a", "add {a} years", "the age then", "years"),),
        {"a": FEW},
    ),
    "ages": StoryQuestion(
        ("How old are {X} and {Y} together?",),
        "how old {X} and {Y} are together",
        "S",
        (StoryStep("S = X + Y", "add the ages of {X} and {Y}", "both ages", "years"),),
    ),
    "pieces": StoryQuestion(
        ("How many pieces are there?", "How many pieces does that make?"), "how many pieces there are", "P"
    ),
    "water": StoryQuestion(("How many liters are in the tank [now|then]?",), "how many liters are in the tank", "V"),
    "jugs": StoryQuestion(("How many jugs are filled?",), "how many jugs are filled", "J"),
}
