"""Clauses about what people own, win, lose, share and compare."""

from __future__ import annotations

from edgereason.problems.word_problems.clause import COUNT, FEW, MANY, PARTS, TENS, Clause, StoryQuestion, StoryStep

_OWN = "the {items} of {X}"


def _own(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, _OWN, "{items}")


CLAUSES = {
    "has": Clause(
        ("{X} [has|has|had] {a} {items}.", "{X} owns {a} {items}.", "There are {a} {items} in {X}'s {box}."),
        "{X} has {a} {items}",
        (StoryStep("X = a", "", _OWN, "{items}"),),
        {"a": COUNT},
    ),
    "has_many": Clause(
        ("{X} [has|had] {a} {items}.", "{X} has collected {a} {items}.", "{X} starts with {a} {items}."),
        "{X} has {a} {items}",
        (StoryStep("X = a", "", _OWN, "{items}"),),
        {"a": MANY},
    ),
    "has_boxes": Clause(
        (
            "{X} has {a} {boxes} with {b} {items} [each|in each].",
            "{X} fills {a} {boxes} with {b} {items} each.",
            "{X} has {a} {boxes}. [There are {b} {items} in each {box}|Each {box} holds {b} {items}].",
        ),
        "{X} has {a} {boxes} with {b} {items} each",
        (_own("X = a * b", "multiply the {a} {boxes} by the {b} {items} in each"),),
        {"a": TENS, "b": FEW},
    ),
    "more": Clause(
        ("{X} has {a} more {items} than {Y}.", "{X} has {a} {items} more than {Y} does."),
        "{X} has {a} more than {Y}",
        (_own("X = Y + a", "add {a} to the {items} of {Y}"),),
        {"a": COUNT},
    ),
    "fewer": Clause(
        ("{X} has {a} fewer {items} than {Y}.", "{X} has {a} {items} less than {Y}."),
        "{X} has {a} fewer than {Y}",
        (_own("X = Y - a", "subtract {a} from the {items} of {Y}"),),
        {"a": COUNT},
    ),
    "times": Clause(
        ("{X} has {a:times} as many {items} as {Y}.", "{X} owns {a:times} as many {items} as {Y} does."),
        "{X} has {a:times} as many as {Y}",
        (_own("X = Y * a", "multiply the {items} of {Y} by {a}"),),
        {"a": PARTS},
    ),
    "part": Clause(
        ("{X} has {a:part} as many {items} as {Y}.", "{X} owns only {a:part} as many {items} as {Y}."),
        "{X} has {a:part} as many as {Y}",
        (_own("X = Y / a", "divide the {items} of {Y} by {a}"),),
        {"a": PARTS},
    ),
    "more_than_times": Clause(
        (
            "{X} has {b} more than {a:times} as many {items} as {Y}.",
            "{X} has {b} {items} more than {a:times} {Y}'s number.",
        ),
        "{X} has {b} more than {a:times} as many as {Y}",
        (
            StoryStep("T = Y * a", "multiply the {items} of {Y} by {a}", "the multiple", "{items}"),
            _own("X = T + b", "add {b} to these"),
        ),
        {"a": PARTS, "b": TENS},
    ),
    "fewer_than_times": Clause(
        ("{X} has {b} fewer than {a:times} as many {items} as {Y}.",),
        "{X} has {b} fewer than {a:times} as many as {Y}",
        (
            StoryStep("T = Y * a", "multiply the {items} of {Y} by {a}", "the multiple", "{items}"),
            _own("X = T - b", "subtract {b} from these"),
        ),
        {"a": PARTS, "b": TENS},
    ),
    "gains": Clause(
        (
            "{X} [gets|buys|finds|wins] {a} more {items}.",
            "{X.He} [bought|got|found|won] {a} more[ {items}|].",
            "Then {X} [gets|buys|finds|receives] {a} more.",
            "[On {day}, |Later, |]{X} [buys|finds|wins|bought|found] another {a} {items}.",
        ),
        "{X} gets {a} more",
        (_own("X = X + a", "add {a} to the {items} of {X}"),),
        {"a": COUNT},
    ),
    "gains_daily": Clause(
        (
            "{X} [finds|gets|makes|buys] {a} {items} a day for {b} days.",
            "Every day for {b} days, {X} [finds|gets|makes|buys] {a} more {items}.",
        ),
        "{X} gets {a} a day for {b} days",
        (
            StoryStep("G = a * b", "multiply {a} a day by {b} days", "the new {items}", "{items}"),
            _own("X = X + G", "add these to the {items} of {X}"),
        ),
        {"a": TENS, "b": FEW},
    ),
    "gains_weekly": Clause(
        (
            "{X} [finds|gets|makes] {a} more {items} every day for {b} weeks.",
            "For {b} weeks, {X} [finds|gets|makes] {a} {items} each day.",
        ),
        "{X} gets {a} every day for {b} weeks",
        (
            StoryStep("W = b * 7", "turn {b} weeks into days, 7 for each", "the days", "days"),
            StoryStep("G = a * W", "multiply {a} a day by the days", "the new {items}", "{items}"),
            _own("X = X + G", "add these to the {items} of {X}"),
        ),
        {"a": FEW, "b": FEW},
    ),
    "gains_dozens": Clause(
        ("{X} [buys|gets|receives] {a} dozen {items}.", "Then {X} [buys|gets] {a} dozen more."),
        "{X} gets {a} dozen",
        (
            StoryStep("G = a * 12", "turn {a} dozen into pieces, 12 for each", "the new {items}", "{items}"),
            _own("X = X + G", "add these to the {items} of {X}"),
        ),
        {"a": FEW},
    ),
    "loses": Clause(
        (
            "{X} [loses|gives away|sells|{uses}] {a} {items}.",
            "{X.He} [lost|gave away|sold|{used}] {a}[ of them| {items}|].",
            "Then {X} [loses|gives away|sells|{uses}] {a} of them.",
            "[On {day}, |Later, |]{a} of {X}'s {items} [get lost|break|are sold|are given away].",
        ),
        "{a} of {X}'s {items} are gone",
        (_own("X = X - a", "subtract {a} from the {items} of {X}"),),
        {"a": COUNT},
    ),
    "has_and_loses": Clause(
        (
            "{X} has {a} {items} and [loses|gives away|sells|{uses}] {b}[ of them|].",
            "{X} had {a} {items} and [lost|gave away|sold|{used}] {b}[ of them|].",
        ),
        "{X} has {a} {items}; {b} of {X}'s {items} are gone",
        (StoryStep("X = a", "", _OWN, "{items}"), _own("X = X - b", "subtract {b} from the {items} of {X}")),
        {"a": COUNT, "b": COUNT},
    ),
    "has_and_gains": Clause(
        (
            "{X} has {a} {items} and [gets|buys|finds|wins] {b} more.",
            "{X} had {a} {items} and [got|bought|found|won] {b} more.",
        ),
        "{X} has {a} {items}; {X} gets {b} more",
        (StoryStep("X = a", "", _OWN, "{items}"), _own("X = X + b", "add {b} to the {items} of {X}")),
        {"a": COUNT, "b": COUNT},
    ),
    "loses_part": Clause(
        (
            "{X} [gives away|sells|loses|{uses}] {a:part} of {X.his} {items}.",
            "Then {X} [gives|sells] {a:part} of {X.his} {items} to a friend.",
        ),
        "{a:part} of {X}'s {items} are gone",
        (
            StoryStep("L = X / a", "divide the {items} of {X} by {a}", "the {items} that are gone", "{items}"),
            _own("X = X - L", "subtract these from the {items} of {X}"),
        ),
        {"a": PARTS},
    ),
    "loses_percent": Clause(
        (
            "{X} [sells|gives away|loses|{uses}] {a:percent} of {X.his} {items}.",
            "{a:percent} of {X}'s {items} [break|get lost|are sold|are given away].",
        ),
        "{a:percent} of {X}'s {items} are gone",
        (
            StoryStep(
                "L = X * a / 100", "take {a:percent} of the {items} of {X}", "the {items} that are gone", "{items}"
            ),
            _own("X = X - L", "subtract these from the {items} of {X}"),
        ),
        {"a": (5, 90)},
    ),
    "gives": Clause(
        (
            "{X} [gives|gave] {a} {items} to {Y}.",
            "{Y} gets {a} {items} from {X}.",
            "{X} hands {a} of {X.his} {items} to {Y}.",
        ),
        "{X} gives {a} to {Y}",
        (
            _own("X = X - a", "subtract {a} from the {items} of {X}"),
            StoryStep("Y = Y + a", "add {a} to the {items} of {Y}", "the {items} of {Y}", "{items}"),
        ),
        {"a": COUNT},
    ),
    "gains_and_gives": Clause(
        (
            "{X.He} [buys|gets|finds|wins] {a} more and gives {b} to {Y}.",
            "{X} [buys|gets|finds] another {a} {items} and [then |]gives {b} [of them |]to {Y}.",
        ),
        "{X} gets {a} more; {X} gives {b} to {Y}",
        (
            _own("X = X + a", "add {a} to the {items} of {X}"),
            _own("X = X - b", "subtract {b} from the {items} of {X}"),
        ),
        {"a": COUNT, "b": COUNT},
    ),
    "loses_and_gains": Clause(
        (
            "{X.He} [loses|sells|gives away|{uses}] {a} of them and [buys|gets|finds] {b} more.",
            "{X} [loses|sells|gives away|{uses}] {a} {items} and [buys|gets|finds] {b} others.",
        ),
        "{a} of {X}'s {items} are gone; {X} gets {b} more",
        (_own("X = X - a", "subtract {a} from the {items} of {X}"), _own("X = X + b", "add {b} to the {items} of {X}")),
        {"a": COUNT, "b": COUNT},
    ),
    "have": Clause(
        ("{X} has {a} {items} and {Y} has {b}.", "{X} has {a} {items}, {Y} has {b} {items}."),
        "{X} has {a} {items}; {Y} has {b} {items}",
        (StoryStep("X = a", "", _OWN, "{items}"), StoryStep("Y = b", "", "the {items} of {Y}", "{items}")),
        {"a": COUNT, "b": COUNT},
    ),
    "puts_together": Clause(
        ("{X} and {Y} put their {items} together.", "{X} and {Y} collect all of their {items} in one place."),
        "{X} and {Y} put theirs together",
        (StoryStep("X = X + Y", "add the {items} of {X} and {Y}", "all {items}", "{items}"),),
    ),
    "shares": Clause(
        (
            "{X} shares {X.his} {items} equally among {a} {people}.",
            "{X} gives all {X.his} {items} to {a} {people}, each the same number.",
        ),
        "{a} {people} share them equally",
        (StoryStep("E = X / a", "divide the {items} by the {a} {people}", "the share of each", "{items}"),),
        {"a": FEW},
    ),
    "packs": Clause(
        ("{X} packs {X.his} {items} into {boxes} of {a}.", "{X} puts the {items} into {boxes}, {a} into each."),
        "{a} go into each {box}",
        (StoryStep("B = X / a", "divide the {items} by the {a} in each {box}", "the {boxes}", "{boxes}"),),
        {"a": FEW},
    ),
    "sells_all": Clause(
        (
            "{X} sells all {X.his} {items} for {a} dollars each.",
            "{X} sells every {item} that {X.he} has for {a} dollars.",
        ),
        "{X} sells them for {a} dollars each",
        (StoryStep("M = X * a", "multiply the {items} of {X} by {a} dollars", "the money of {X}", "dollars"),),
        {"a": FEW},
    ),
    "spends": Clause(
        ("{X} spends {a} dollars of it on a {good}.", "With the money, {X} buys a {good} for {a} dollars."),
        "{X} spends {a} dollars",
        (StoryStep("M = M - a", "subtract the {a} dollars that {X} spends", "the money of {X}", "dollars"),),
        {"a": TENS},
    ),
}

QUESTIONS = {
    "count": StoryQuestion(
        ("How many {items} does {X} have [now|left|then|in the end]?",),
        "how many {items} {X} has in the end",
        "X",
    ),
    "count_his": StoryQuestion(
        ("How many {items} does {X.he} have[ now| left| then|]?", "How many {items} [are left|does {X.he} keep]?"),
        "how many {items} {X} has in the end",
        "X",
    ),
    "both": StoryQuestion(
        (
            "How many {items} do {X} and {Y} have [together|altogether|in total|in all]?",
            "How many {items} do they have [together|altogether|in total]?",
        ),
        "how many {items} {X} and {Y} have together",
        "S",
        (StoryStep("S = X + Y", "add the {items} of {X} and {Y}", "all {items}", "{items}"),),
    ),
    "all_three": StoryQuestion(
        (
            "How many {items} do {X}, {Y} and {Z} have [together|altogether|in total]?",
            "How many {items} do the three have [together|altogether]?",
        ),
        "how many {items} {X}, {Y} and {Z} have together",
        "S",
        (
            StoryStep("S = X + Y", "add the {items} of {X} and {Y}", "the {items} of two", "{items}"),
            StoryStep("S = S + Z", "add those of {Z}", "all {items}", "{items}"),
        ),
    ),
    "difference": StoryQuestion(
        (
            "How many more {items} does {X} have than {Y}[ now|]?",
            "How many {items} more than {Y} does {X} have[ now|]?",
        ),
        "how many more {items} {X} has than {Y}",
        "D",
        (StoryStep("D = X - Y", "subtract the {items} of {Y} from those of {X}", "the difference", "{items}"),),
    ),
    "average": StoryQuestion(
        ("How many {items} do {X} and {Y} have on average?",),
        "how many {items} {X} and {Y} have on average",
        "V",
        (
            StoryStep("S = X + Y", "add the {items} of {X} and {Y}", "all {items}", "{items}"),
            StoryStep("V = S / 2", "divide by the 2 of them", "the average", "{items}"),
        ),
    ),
    "share": StoryQuestion(
        ("How many {items} does each [of them |one |]get?", "How many {items} are there for each?"),
        "how many {items} each of the {people} gets",
        "E",
    ),
    "packed": StoryQuestion(
        ("How many {boxes} does {X} fill?", "How many {boxes} does {X} need?"), "how many {boxes} are filled", "B"
    ),
    "money": StoryQuestion(
        ("How many dollars does {X} have [now|then|in the end]?", "How much money in dollars does {X} have then?"),
        "how many dollars {X} has in the end",
        "M",
    ),
}
