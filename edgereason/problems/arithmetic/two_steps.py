"""The scenarios of two steps; `scenario.py` says how they are written."""

from __future__ import annotations

from edgereason.problems.arithmetic.scenario import FEW, SHARED, TENS, Scenario

TWO_STEPS = (
    Scenario(
        "receive_then_give",
        ("a + b", "#1 - c"),
        "how many {items} {name} has left",
        "{name} has {a} {items}; {name} gets {b} more; {c} are gone",
        (
            "{name} has {a} {items}. {He} [gets|buys|finds] {b} more and then [loses|sells|gives away] {c}. "
            "How many {items} does {name} have [left|now]?",
            "{name} had {a} {items}. {Other} gave {him} {b} more. Then {he} [lost|sold|used|gave away] {c} {items}. "
            "How many {items} are left?",
            "After {name} got {b} {items} from {other}, {he} [lost|sold|used] {c}. {He} had {a} {items} at the start. "
            "How many {items} does {he} have left?",
            "[On {day}, |]{name} gives away {c} {items}. Before that {he} had {a} {items} and received {b} more. "
            "How many {items} are left?",
        ),
        {"a": (2, 150)},
    ),
    Scenario(
        "give_twice",
        ("a - b", "#1 - c"),
        "how many {items} {name} has left",
        "{name} has {a} {items}; {b} are gone and then {c} more",
        (
            "{name} has {a} {items}. {He} gives {b} to {other} and {c} to {third}. "
            "How many {items} does {name} have left?",
            "{name} had {a} {items}. {He} [lost|sold|used] {b} in the morning and {c} in the afternoon. "
            "How many {items} are left?",
            "{Other} takes {b} {items} and {third} takes {c} {items} from {name}, who had {a}. "
            "How many {items} does {name} still have?",
            "Of {his} {a} {items}, {name} [sells|uses|loses] {b} at first and {c} later. How many {items} remain?",
        ),
        {"a": (10, 300)},
    ),
    Scenario(
        "three_together",
        ("a + b", "#1 + c"),
        "how many {items} they have altogether",
        "{name} has {a} {items}; {other} has {b}; {third} has {c}",
        (
            "{name} has {a} {items}, {other} has {b} and {third} has {c}. "
            "How many {items} do they have [altogether|in total|in all]?",
            "{name} [found|collected|picked] {a} {items}. {Other} [found|collected|picked] {b} and {third} {c}. "
            "How many {items} is that [altogether|in total|in all]?",
            "How many {items} do {name}, {other} and {third} have together if they have {a}, {b} and {c}?",
        ),
    ),
    Scenario(
        "groups_plus",
        ("a * b", "#1 + c"),
        "how many {items} there are altogether",
        "there are {a} {boxes}; each has {b} {items}; there are {c} more",
        (
            "{name} has {a} {boxes} with {b} {items} each and {c} more {items}. "
            "How many {items} does {he} have [altogether|in all]?",
            "There are {a} {boxes} in the {place}. Each {box} [holds|has] {b} {items}. "
            "There are {c} more {items} on the table. "
            "How many {items} are there in all?",
            "{name} has {c} single {items} and {a} {boxes} of {b} {items} each. "
            "How many {items} is that [altogether|in total]?",
            "{name} fills {a} {boxes} with {b} {items} each. {c} {items} are left over. "
            "How many {items} did {he} have?",
        ),
        {"a": FEW, "b": TENS},
    ),
    Scenario(
        "groups_minus",
        ("a * b", "#1 - c"),
        "how many {items} are left",
        "there are {a} {boxes}; each has {b} {items}; {c} are gone",
        (
            "{name} has {a} {boxes} with {b} {items} each. {He} gives {c} {items} [away|to {other}]. "
            "How many {items} are left?",
            "There were {a} {boxes} of {b} {items} each in the {place}. {c} {items} were [sold|lost|used]. "
            "How many {items} are left?",
            "{name} [sold|lost|used] {c} of {his} {items}. {He} had {a} {boxes} with {b} {items} in each. "
            "How many {items} are left?",
            "Each {box} holds {b} {items}. {name} has {a} {boxes} and [sells|loses|uses] {c} {items}. "
            "How many {items} remain?",
        ),
        {"a": FEW, "b": TENS},
    ),
    Scenario(
        "join_then_share",
        ("a + b", "#1 / c"),
        "how many {items} each of the {people} gets",
        "{name} has {a} {items}; {other} has {b}; {c} {people} share them equally",
        (
            "{name} has {a} {items} and {other} has {b}. They share them equally among {c} {people}. "
            "How many {items} does each [one |]get?",
            "{name} brings {a} {items} and {other} brings {b}. {C} {people} share all of them equally. "
            "How many {items} does each [one |]get?",
            "{C} {people} share the {items} of {name} and {other} equally. {name} has {a} {items}, {other} has {b}. "
            "How many {items} does each [one |]get?",
        ),
        {"c": FEW},
    ),
    Scenario(
        "give_then_share",
        ("a - b", "#1 / c"),
        "how many {items} each of the {people} gets",
        "{name} has {a} {items}; {b} are gone; {c} {people} share the others equally",
        (
            "{name} has {a} {items}. {He} keeps {b} and shares the rest equally among {c} {people}. "
            "How many {items} does each get?",
            "{name} had {a} {items} but [lost|used|sold] {b}. {C} {people} share the rest equally. "
            "How many {items} does each get?",
            "{C} {people} share {name}'s {items} equally, after {he} takes {b} out. {He} had {a}. "
            "How many {items} does each get?",
        ),
        {"a": (10, 200), "c": FEW},
    ),
    Scenario(
        "share_then_give",
        ("a / b", "#1 - c"),
        "how many {items} {name} has left",
        "{a} {items} are shared equally by {b} {people}, one is {name}; {name} gives {c} away",
        (
            "{name} is one of {b} {people} who share {a} {items} equally. Then {he} gives {c} {items} away. "
            "How many {items} does {name} have left?",
            "{B} {people} share {a} {items} equally. {name} is one of them and gives {c} of {his} {items} to {other}. "
            "How many {items} does {name} have left?",
            "{a} {items} are shared equally by {b} {people}. {name}, one of them, [loses|uses|sells] {c}. "
            "How many {items} does {name} have left?",
        ),
        {"a": SHARED, "b": FEW, "c": TENS},
    ),
    Scenario(
        "more_then_together",
        ("a + b", "a + #1"),
        "how many {items} {name} and {other} have altogether",
        "{name} has {a} {items}; {other} has {b} more",
        (
            "{name} has {a} {items}. {Other} has {b} more than {name}. "
            "How many {items} do they have [altogether|in total|together]?",
            "{Other} has {b} more {items} than {name}, who has {a}. "
            "How many {items} do they have [altogether|in total|together]?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] {b} more than {name}. "
            "How many {items} is that [altogether|in total]?",
        ),
    ),
    Scenario(
        "fewer_then_together",
        ("a - b", "a + #1"),
        "how many {items} {name} and {other} have altogether",
        "{name} has {a} {items}; {other} has {b} fewer",
        (
            "{name} has {a} {items}. {Other} has {b} fewer than {name}. "
            "How many {items} do they have [altogether|in total|together]?",
            "{Other} has {b} fewer {items} than {name}, who has {a}. "
            "How many {items} do they have [altogether|in total|together]?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] {b} fewer than {name}. "
            "How many {items} is that [altogether|in total]?",
        ),
        {"a": (4, 150)},
    ),
    Scenario(
        "twice_then_together",
        ("a * 2", "a + #1"),
        "how many {items} {name} and {other} have altogether",
        "{name} has {a} {items}; {other} has twice as many",
        (
            "{name} has {a} {items}. {Other} has twice as many. "
            "How many {items} do they have [altogether|in total|together]?",
            "{Other} has twice as many {items} as {name}, who has {a}. "
            "How many {items} do they have [altogether|in total|together]?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] twice as many. "
            "How many {items} is that [altogether|in total]?",
        ),
    ),
    Scenario(
        "buy_then_change",
        ("a * b", "c - #1"),
        "how much money {name} has left",
        "{name} buys {a} {goods}; each costs ${b}; {name} has ${c}",
        (
            "{name} has ${c}. {He} buys {a} {goods} for ${b} each. How much money does {name} have left?",
            "A {good} costs ${b}. {name} buys {a} {goods} and pays with ${c}. How much change does {he} get?",
            "[On {day}, |]{name} bought {a} {goods} at ${b} each. {He} had ${c}[ before|]. How many dollars are left?",
            "{name} takes ${c} to the {place}. {He} buys {a} {goods}. Each {good} costs ${b}. "
            "How much money does {he} have left?",
        ),
        {"a": FEW, "b": FEW, "c": (10, 200)},
    ),
    Scenario(
        "buy_two_kinds",
        ("a * b", "#1 + c"),
        "how much {name} pays",
        "{name} buys {a} {goods}; each costs ${b}; one {thing} costs ${c}",
        (
            "{name} buys {a} {goods} for ${b} each and one {thing} for ${c}. "
            "How much does {he} pay[ in total| altogether|]?",
            "At the {place}, a {good} costs ${b} and a {thing} costs ${c}. {name} buys {a} {goods} and one {thing}. "
            "How much does {name} pay?",
            "{name} bought one {thing} for ${c} and {a} {goods}. Each {good} cost ${b}. How much did {he} spend?",
        ),
        {"a": FEW, "b": TENS},
    ),
    Scenario(
        "save_then_buy",
        ("a * b", "#1 - c"),
        "how much money {name} has left",
        "{name} saves ${a} for {b} weeks; {name} spends ${c}",
        (
            "{name} saves ${a} each week for {b} weeks. Then {he} buys a {good} for ${c}. "
            "How much money does {he} have left?",
            "Every week {name} [gets|earns] ${a}. After {b} weeks {he} spends ${c}. "
            "How many dollars does {name} have left?",
            "For {b} weeks {name} saved ${a} a week. {He} paid ${c} for a {good}. How much money is left?",
        ),
        {"a": TENS, "b": FEW},
    ),
    Scenario(
        "pages_left",
        ("a * b", "c - #1"),
        "how many pages are left",
        "{name} reads {a} pages a day for {b} days; the book has {c} pages",
        (
            "{name} reads {a} pages a day[ of a book|]. The book has {c} pages. "
            "How many pages are left after {b} days?",
            "A book has {c} pages. {name} reads {a} pages each day for {b} days. How many pages are left?",
            "For {b} days {name} read {a} pages every day. {His} book has {c} pages. "
            "How many pages does {he} still have to read?",
        ),
        {"a": TENS, "b": FEW, "c": (10, 300)},
    ),
)
