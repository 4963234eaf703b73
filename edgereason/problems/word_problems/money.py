"""Clauses about prices, wages and savings."""

from __future__ import annotations

from edgereason.problems.word_problems.clause import COUNT, FEW, MANY, PARTS, TENS, Clause, StoryQuestion, StoryStep


def _cost(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the cost", "dollars")


def _money(computes: str, plan: str) -> StoryStep:
    return StoryStep(computes, plan, "the money of {X}", "dollars")


CLAUSES = {
    "buys": Clause(
        (
            "{X} buys {a} {goods} for {b} dollars each.",
            "{X} buys {a} {goods}. Each {good} costs {b} dollars.",
            "A {good} costs {b} dollars. {X} buys {a} of them.",
        ),
        "{X} buys {a} {goods} for {b} dollars each",
        (_cost("C = a * b", "multiply the {a} {goods} by {b} dollars"),),
        {"a": FEW, "b": TENS},
    ),
    "buys_too": Clause(
        (
            "{X.He} also buys {a} {things} for {b} dollars each.",
            "{X} takes {a} {things} as well, at {b} dollars each.",
        ),
        "{a} {things} for {b} dollars each",
        (
            StoryStep("P = a * b", "multiply the {a} {things} by {b} dollars", "the cost of the {things}", "dollars"),
            _cost("C = C + P", "add both costs"),
        ),
        {"a": FEW, "b": FEW},
    ),
    "buys_one": Clause(
        ("{X} buys a {good} for {a} dollars.", "{X} wants a {good} that costs {a} dollars."),
        "a {good} costs {a} dollars",
        (StoryStep("C = a", "", "the cost", "dollars"),),
        {"a": MANY},
    ),
    "buys_dearer": Clause(
        (
            "{X.He} also buys a {thing} that costs {a} dollars more than the {good}.",
            "{X} buys a {thing} too. It costs {a} dollars more than the {good}.",
        ),
        "a {thing} costs {a} dollars more than the {good}",
        (
            StoryStep("P = C + a", "add {a} to the price of the {good}", "the price of the {thing}", "dollars"),
            _cost("C = C + P", "add both prices"),
        ),
        {"a": TENS},
    ),
    "discount": Clause(
        (
            "There is a discount of {a:percent}.",
            "The shop takes {a:percent} off the price.",
            "Today everything costs {a:percent} less.",
        ),
        "the discount is {a:percent}",
        (
            StoryStep("D = C * a / 100", "take {a:percent} of the cost", "the discount", "dollars"),
            _cost("C = C - D", "subtract the discount"),
        ),
        {"a": (5, 50)},
    ),
    "coupon": Clause(
        ("{X} has a coupon for {a} dollars.", "A coupon takes {a} dollars off."),
        "a coupon takes {a} dollars off",
        (_cost("C = C - a", "subtract the {a} dollars of the coupon"),),
        {"a": TENS},
    ),
    "delivery": Clause(
        ("Delivery costs {a} dollars more.", "{X} also pays {a} dollars for delivery."),
        "delivery costs {a} dollars",
        (_cost("C = C + a", "add {a} dollars for delivery"),),
        {"a": FEW},
    ),
    "pays_with": Clause(
        ("{X} pays with {a} dollars.", "{X} gives the shopkeeper {a} dollars."),
        "{X} pays with {a} dollars",
        (StoryStep("R = a - C", "subtract the cost from {a} dollars", "the change", "dollars"),),
        {"a": MANY},
    ),
    "splits_cost": Clause(
        ("{a} {people} share the cost equally.", "The cost is split equally between {a} {people}."),
        "{a} {people} share the cost equally",
        (StoryStep("E = C / a", "divide the cost by the {a} {people}", "the part of each", "dollars"),),
        {"a": FEW},
    ),
    "saves_for_it": Clause(
        ("{X} saves {a} dollars a week for it.", "Every week, {X} puts {a} dollars aside for it."),
        "{X} saves {a} dollars a week",
        (StoryStep("W = C / a", "divide the cost by {a} dollars a week", "the weeks", "weeks"),),
        {"a": TENS},
    ),
    "has_money": Clause(
        ("{X} has {a} dollars.", "{X} has saved {a} dollars.", "There are {a} dollars in {X}'s purse."),
        "{X} has {a} dollars",
        (StoryStep("M = a", "", "the money of {X}", "dollars"),),
        {"a": MANY},
    ),
    "earns": Clause(
        (
            "{X} earns {a} dollars an hour and works {b} hours.",
            "{X} works {b} hours for {a} dollars an hour.",
        ),
        "{X} earns {a} dollars an hour for {b} hours",
        (_money("M = a * b", "multiply {a} dollars an hour by {b} hours"),),
        {"a": TENS, "b": FEW},
    ),
    "earns_for_days": Clause(
        (
            "{X} earns {a} dollars an hour and works {b} hours a day for {c} days.",
            "For {c} days, {X} works {b} hours a day. {X.He} gets {a} dollars for each hour.",
        ),
        "{X} earns {a} dollars an hour, {b} hours a day, for {c} days",
        (
            StoryStep("H = b * c", "multiply {b} hours a day by {c} days", "the hours", "hours"),
            _money("M = a * H", "multiply {a} dollars an hour by the hours"),
        ),
        {"a": (5, 30), "b": (2, 9), "c": (2, 9)},
    ),
    "gets_money": Clause(
        ("{X.His} [father|mother|aunt|uncle] gives {X.him} {a} dollars more.", "{X} gets another {a} dollars."),
        "{X} gets {a} dollars more",
        (_money("M = M + a", "add the {a} dollars"),),
        {"a": COUNT},
    ),
    "spends_money": Clause(
        ("{X} spends {a} dollars on a {thing}.", "{X} pays {a} dollars for a {thing}."),
        "{X} spends {a} dollars",
        (_money("M = M - a", "subtract the {a} dollars that are spent"),),
        {"a": COUNT},
    ),
    "spends_part": Clause(
        ("{X} spends {a:part} of {X.his} money.", "{X} gives {a:part} of the money to {X.his} family."),
        "{X} spends {a:part} of the money",
        (
            StoryStep("L = M / a", "divide the money of {X} by {a}", "what is spent", "dollars"),
            _money("M = M - L", "subtract what is spent"),
        ),
        {"a": PARTS},
    ),
    "spends_percent": Clause(
        ("{X} spends {a:percent} of {X.his} money.", "{X} puts {a:percent} of the money into the bank."),
        "{a:percent} of the money is gone",
        (
            StoryStep("L = M * a / 100", "take {a:percent} of the money of {X}", "what is gone", "dollars"),
            _money("M = M - L", "subtract what is gone"),
        ),
        {"a": (5, 90)},
    ),
    "buys_with_it": Clause(
        (
            "{X} buys as many {goods} as {X.he} can for {a} dollars each.",
            "{X} spends all of it on {goods} that cost {a} dollars each.",
        ),
        "{goods} cost {a} dollars each",
        (StoryStep("B = M / a", "divide the money of {X} by {a} dollars", "the {goods}", "{goods}"),),
        {"a": FEW},
    ),
}

QUESTIONS = {
    "cost": StoryQuestion(
        (
            "How many dollars does [{X}|{X.he}] pay?",
            "How much does {X} pay in dollars?",
            "How many dollars does all of it cost?",
        ),
        "how many dollars {X} pays",
        "C",
    ),
    "cents": StoryQuestion(
        ("How many cents does {X} pay?",),
        "how many cents {X} pays",
        "N",
        (StoryStep("N = C * 100", "turn the dollars into cents, 100 for each", "the cents", "cents"),),
    ),
    "change": StoryQuestion(
        ("How many dollars does [{X}|{X.he}] get back?", "How much change in dollars does {X} get?"),
        "how many dollars {X} gets back",
        "R",
    ),
    "each_pays": StoryQuestion(("How many dollars does each pay?",), "how many dollars each of the {people} pays", "E"),
    "weeks": StoryQuestion(
        ("How many weeks does {X} have to save?", "After how many weeks does {X} have enough?"),
        "how many weeks {X} has to save",
        "W",
    ),
    "money": StoryQuestion(
        ("How many dollars does [{X}|{X.he}] have [now|left|then]?", "How much money in dollars is left?"),
        "how many dollars {X} has in the end",
        "M",
    ),
    "bought": StoryQuestion(
        ("How many {goods} does {X} buy?", "How many {goods} does {X} get?"), "how many {goods} {X} buys", "B"
    ),
    "missing": StoryQuestion(
        ("How many dollars [does {X} still need|are still missing] for a {good} that costs {a} dollars?",),
        "how many dollars {X} still needs for a {good} of {a} dollars",
        "N",
        (StoryStep("N = a - M", "subtract the money of {X} from {a} dollars", "what is missing", "dollars"),),
        {"a": MANY},
    ),
}
