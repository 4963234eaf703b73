"""Clauses about distance, speed, work and time."""

from __future__ import annotations

from edgereason.problems.word_problems.clause import COUNT, FEW, MANY, PARTS, TENS, Clause, StoryQuestion, StoryStep


def _way(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the way", "kilometers")


def _pages(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the pages", "pages")


CLAUSES = {
    "travels": Clause(
        (
            "{X} [drives|rides|travels] {a} kilometers an hour for {b} hours.",
            "{X} [drives|travels] for {b} hours at {a} kilometers an hour.",
        ),
        "{X} goes {a} kilometers an hour for {b} hours",
        (_way("K = a * b", "multiply {a} kilometers an hour by {b} hours"),),
        {"a": TENS, "b": FEW},
    ),
    "travels_on": Clause(
        (
            "Then {X} [drives|rides|goes] {a} kilometers an hour for {b} hours more.",
            "For another {b} hours {X.he} goes {a} kilometers an hour.",
        ),
        "then {a} kilometers an hour for {b} hours",
        (
            StoryStep("L = a * b", "multiply {a} kilometers an hour by {b} hours", "the second part", "kilometers"),
            _way("K = K + L", "add both parts"),
        ),
        {"a": TENS, "b": FEW},
    ),
    "walks_on": Clause(
        ("Then {X} walks {a} kilometers.", "After that, {X} goes {a} kilometers on foot."),
        "{X} walks {a} kilometers more",
        (_way("K = K + a", "add the {a} kilometers"),),
        {"a": FEW},
    ),
    "returns": Clause(
        ("{X} goes the same way back.", "Then {X} returns by the same way."),
        "{X} goes the same way back",
        (_way("K = K * 2", "double the way"),),
    ),
    "road": Clause(
        ("The road to the {place} is {a} kilometers long.", "{X} lives {a} kilometers from the {place}."),
        "the way is {a} kilometers long",
        (StoryStep("K = a", "", "the way", "kilometers"),),
        {"a": MANY},
    ),
    "has_gone": Clause(
        ("{X} has gone {a} kilometers of it.", "{X} has {a} kilometers of the way behind {X.him}."),
        "{X} has gone {a} kilometers",
        (StoryStep("K = K - a", "subtract the {a} kilometers", "the rest of the way", "kilometers"),),
        {"a": COUNT},
    ),
    "at_speed": Clause(
        ("{X} goes {a} kilometers an hour.", "{X} travels at {a} kilometers an hour."),
        "{X} goes {a} kilometers an hour",
        (StoryStep("H = K / a", "divide the way by {a} kilometers an hour", "the hours", "hours"),),
        {"a": TENS},
    ),
    "book": Clause(
        ("A book has {a} pages.", "{X} reads a book of {a} pages.", "There are {a} pages in {X}'s book."),
        "the book has {a} pages",
        (StoryStep("L = a", "", "the pages", "pages"),),
        {"a": MANY},
    ),
    "read_daily": Clause(
        ("{X} has read {a} pages a day for {b} days.", "For {b} days, {X} reads {a} pages a day."),
        "{X} has read {a} pages a day for {b} days",
        (
            StoryStep("R = a * b", "multiply {a} pages a day by {b} days", "the pages that are read", "pages"),
            _pages("L = L - R", "subtract these from all pages"),
        ),
        {"a": TENS, "b": FEW},
    ),
    "read_part": Clause(
        ("{X} has read {a:part} of it.", "{X} has finished {a:part} of the pages."),
        "{X} has read {a:part}",
        (
            StoryStep("R = L / a", "divide the pages by {a}", "the pages that are read", "pages"),
            _pages("L = L - R", "subtract these"),
        ),
        {"a": PARTS},
    ),
    "reads_rest": Clause(
        ("{X} reads {a} pages a day[ from now on|].", "From now on {X.he} reads {a} pages every day."),
        "{X} reads {a} pages a day",
        (StoryStep("T = L / a", "divide the pages by {a} pages a day", "the days", "days"),),
        {"a": TENS},
    ),
    "makes_hourly": Clause(
        ("{X} makes {a} {items} an hour and works {b} hours.", "In each of {b} hours, {X} makes {a} {items}."),
        "{X} makes {a} {items} an hour for {b} hours",
        (StoryStep("G = a * b", "multiply {a} {items} an hour by {b} hours", "the {items}", "{items}"),),
        {"a": TENS, "b": FEW},
    ),
    "makes_by_minute": Clause(
        ("A machine makes {a} {items} a minute and runs for {b} hours.",),
        "a machine makes {a} {items} a minute for {b} hours",
        (
            StoryStep("U = b * 60", "turn {b} hours into minutes, 60 for each", "the minutes", "minutes"),
            StoryStep("G = a * U", "multiply {a} {items} a minute by the minutes", "the {items}", "{items}"),
        ),
        {"a": FEW, "b": FEW},
    ),
    "some_break": Clause(
        ("{a} of the {items} are broken.", "Of these, {a} {items} are not good enough."),
        "{a} of the {items} are broken",
        (StoryStep("G = G - a", "subtract the {a} broken ones", "the good {items}", "{items}"),),
        {"a": TENS},
    ),
    "packed_by": Clause(
        ("They are packed into {boxes} of {a}.", "{a} {items} go into each {box}."),
        "{a} {items} go into each {box}",
        (StoryStep("B = G / a", "divide the {items} by the {a} in each {box}", "the {boxes}", "{boxes}"),),
        {"a": FEW},
    ),
    "practices": Clause(
        ("{X} [practices|plays|reads|runs] {a} minutes a day for {b} days.",),
        "{X} spends {a} minutes a day for {b} days",
        (StoryStep("U = a * b", "multiply {a} minutes a day by {b} days", "the minutes", "minutes"),),
        {"a": TENS, "b": FEW},
    ),
    "practices_weekly": Clause(
        ("{X} [practices|plays|reads|runs] {a} minutes every day for {b} weeks.",),
        "{X} spends {a} minutes every day for {b} weeks",
        (
            StoryStep("W = b * 7", "turn {b} weeks into days, 7 for each", "the days", "days"),
            StoryStep("U = a * W", "multiply {a} minutes a day by the days", "the minutes", "minutes"),
        ),
        {"a": TENS, "b": PARTS},
    ),
}

QUESTIONS = {
    "way": StoryQuestion(
        ("How many kilometers does {X} go [altogether|in total|in all]?", "How many kilometers is that[ altogether|]?"),
        "how many kilometers {X} goes",
        "K",
    ),
    "rest_of_way": StoryQuestion(
        ("How many kilometers are left?", "How many kilometers does {X} still have to go?"),
        "how many kilometers are left",
        "K",
    ),
    "hours": StoryQuestion(
        ("How many hours does it take?", "How many hours does {X} need?"), "how many hours it takes", "H"
    ),
    "travel_minutes": StoryQuestion(
        ("How many minutes does it take?", "How many minutes does {X} need?"),
        "how many minutes it takes",
        "U",
        (StoryStep("U = H * 60", "turn the hours into minutes, 60 for each", "the minutes", "minutes"),),
    ),
    "pages_left": StoryQuestion(
        ("How many pages are left?", "How many pages does {X} still have to read?"), "how many pages are left", "L"
    ),
    "days": StoryQuestion(
        ("How many days does {X} need for the rest?", "In how many days is {X} done?"), "how many days {X} needs", "T"
    ),
    "made": StoryQuestion(
        ("How many {items} is that?", "How many good {items} are there?"), "how many {items} there are", "G"
    ),
    "packages": StoryQuestion(
        ("How many {boxes} are filled?", "How many full {boxes} is that?"), "how many {boxes} are filled", "B"
    ),
    "minutes": StoryQuestion(
        ("How many minutes is that [altogether|in total]?",), "how many minutes it is altogether", "U"
    ),
    "in_hours": StoryQuestion(
        ("How many hours is that [altogether|in total]?",),
        "how many hours it is altogether",
        "H",
        (StoryStep("H = U / 60", "turn the minutes into hours, 60 for each", "the hours", "hours"),),
    ),
}
