"""The scenarios of one step; `scenario.py` says how they are written."""

from __future__ import annotations

from edgereason.problems.arithmetic.scenario import FEW, MANY, SHARED, TENS, Scenario

ONE_STEP = (
    Scenario(
        "receive",
        ("a + b",),
        "how many {items} {name} has now",
        "{name} has {a} {items}; {name} gets {b} more",
        (
            "{name} [has|had] {a} {items}. {Other} gives {him} {b} more. How many {items} does {name} have now?",
            "{name} had {a} {items} and then [found|bought|got|received] {b} more. "
            "How many {items} does {name} have now?",
            "[On {day}, |]{name} [bought|found|collected] {b} {items}. {He} already had {a} {items}. "
            "How many {items} does {he} have [now|in all|altogether]?",
            "There were {a} {items} on {name}'s table. {He} put {b} more {items} there. "
            "How many {items} are there now?",
            "{name} starts with {a} {items} and gets {b} more from {other}. "
            "What is the number of {items} {he} has now?",
        ),
        {"a": (2, 150)},
    ),
    Scenario(
        "give_away",
        ("a - b",),
        "how many {items} {name} has left",
        "{name} has {a} {items}; {b} are gone",
        (
            "{name} has {a} {items}. {He} gives {b} [of them |]to {other}. How many {items} does {name} have left?",
            "{name} had {a} {items} and [lost|sold|used|gave away] {b} of them. How many {items} are left?",
            "[On {day}, |After school, |]{name} [lost|sold|used|gave away] {b} of {his} {a} {items}. "
            "How many {items} does {he} still have?",
            "If {name} has {a} {items} and gives {b} {items} away, how many {items} remain?",
            "{Other} takes {b} {items} from {name}, who had {a}. How many {items} does {name} have left?",
        ),
        {"a": MANY},
    ),
    Scenario(
        "together",
        ("a + b",),
        "how many {items} {name} and {other} have altogether",
        "{name} has {a} {items}; {other} has {b}",
        (
            "{name} has {a} {items} and {other} has {b} {items}. "
            "How many {items} do they have [altogether|in total|in all|together]?",
            "{name} [found|collected|picked|has] {a} {items}. {Other} [found|collected|picked|has] {b}. "
            "How many {items} is that [altogether|in total|in all]?",
            "How many {items} do {name} and {other} have together if {name} has {a} and {other} has {b}?",
            "{name} brings {a} {items} to the {place}. {Other} brings {b} {items}. "
            "What is the total number of {items} they bring?",
        ),
        {"a": (2, 150), "b": (2, 150)},
    ),
    Scenario(
        "how_many_more",
        ("a - b",),
        "how many more {items} {name} has than {other}",
        "{name} has {a} {items}; {other} has {b}",
        (
            "{name} has {a} {items}. {Other} has {b} {items}. How many more {items} does {name} have than {other}?",
            "{Other} has {b} {items} and {name} has {a}. How many more {items} does {name} have than {other}?",
            "How many more {items} than {other} does {name} have, if {name} has {a} {items} and {other} has {b}?",
            "{name} collected {a} {items}, but {other} collected only {b}. By how many {items} is {name} ahead?",
            "{Other} owns {b} {items}. {name} owns {a} {items}. How many fewer {items} does {other} have?",
        ),
        {"a": MANY, "b": (2, 200)},
    ),
    Scenario(
        "more_than",
        ("a + b",),
        "how many {items} {other} has",
        "{name} has {a} {items}; {other} has {b} more",
        (
            "{name} has {a} {items}. {Other} has {b} more {items} than {name}. How many {items} does {other} have?",
            "{Other} has {b} more {items} than {name}, who has {a}. How many {items} does {other} have?",
            "{name} [found|collected|picked] {a} {items}. {Other} [found|collected|picked] {b} more than {name} did. "
            "How many {items} does {other} have?",
            "How many {items} does {other} have if {she} has {b} more than {name} and {name} has {a}?",
        ),
        {"a": (2, 150)},
    ),
    Scenario(
        "fewer_than",
        ("a - b",),
        "how many {items} {other} has",
        "{name} has {a} {items}; {other} has {b} fewer",
        (
            "{name} has {a} {items}. {Other} has {b} fewer {items} than {name}. How many {items} does {other} have?",
            "{Other} has {b} fewer {items} than {name}, who has {a}. How many {items} does {other} have?",
            "{name} [found|collected|picked] {a} {items}. {Other} [found|collected|picked] {b} fewer than {name} did. "
            "How many {items} does {other} have?",
            "How many {items} does {other} have if {she} has {b} fewer than {name} and {name} has {a}?",
        ),
        {"a": (4, 200)},
    ),
    Scenario(
        "groups",
        ("a * b",),
        "how many {items} there are altogether",
        "there are {a} {boxes}; each has {b} {items}",
        (
            "There are {a} {boxes}[ in the {place}|] with {b} {items} each. "
            "How many {items} are there [altogether|in total|in all]?",
            "{name} has {a} {boxes}. Each {box} [holds|has|contains] {b} {items}. "
            "How many {items} does {he} have [altogether|in all]?",
            "Each {box} [holds|has|contains] {b} {items}. How many {items} are in {a} {boxes}?",
            "{name} puts {b} {items} into each of {a} {boxes}. How many {items} does {he} use?",
            "How many {items} are there in {a} {boxes} of {b} {items} each?",
        ),
        {"a": TENS, "b": TENS},
    ),
    Scenario(
        "share",
        ("a / b",),
        "how many {items} each of the {people} gets",
        "there are {a} {items}; {b} {people} share them equally",
        (
            "{name} shares {a} {items} equally among {b} {people}. How many {items} does each [one |]get?",
            "{B} {people} share {a} {items} equally. How many {items} does each of them get?",
            "{a} {items} are [divided|split|shared] equally [among|between] {b} {people}. "
            "How many {items} does each [one |]get?",
            "{name} has {a} {items} for {b} {people}. "
            "If everyone gets the same number, how many {items} does each get?",
        ),
        {"a": SHARED, "b": FEW},
    ),
    Scenario(
        "pack",
        ("a / b",),
        "how many {boxes} are needed",
        "there are {a} {items}; each of the {boxes} holds {b}",
        (
            "{name} packs {a} {items} into {boxes}. Each {box} holds {b} {items}. "
            "How many {boxes} [are needed|does {he} need]?",
            "{name} has {a} {items} and puts {b} into each {box}. How many {boxes} does {he} need[ for all of them|]?",
            "How many {boxes} are needed for {a} {items} if each {box} holds {b}?",
            "The {place} has {a} {items}. {b} of them fit into one {box}. How many {boxes} are needed?",
        ),
        {"a": SHARED, "b": FEW},
    ),
    Scenario(
        "twice",
        ("a * 2",),
        "how many {items} {other} has",
        "{name} has {a} {items}; {other} has twice as many",
        (
            "{name} has {a} {items}. {Other} has twice as many[ {items}|]. How many {items} does {other} have?",
            "{Other} has twice as many {items} as {name}. {name} has {a} {items}. How many {items} does {other} have?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] twice as many. "
            "How many {items} does {other} have?",
            "If {name} has {a} {items} and {other} has double that number, how many {items} does {other} have?",
        ),
        {"a": (2, 150)},
    ),
    Scenario(
        "times_as_many",
        ("a * b",),
        "how many {items} {other} has",
        "{name} has {a} {items}; {other} has {b} times as many",
        (
            "{name} has {a} {items}. {Other} has {b} times as many[ {items}|]. How many {items} does {other} have?",
            "{Other} has {b} times as many {items} as {name}. {name} has {a} {items}. "
            "How many {items} does {other} have?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] {b} times as many. "
            "How many {items} does {other} have?",
        ),
        {"a": TENS, "b": FEW},
    ),
    Scenario(
        "half",
        ("a / 2",),
        "how many {items} {other} has",
        "{name} has {a} {items}; {other} has half as many",
        (
            "{name} has {a} {items}. {Other} has half as many[ {items}|]. How many {items} does {other} have?",
            "{Other} has half as many {items} as {name}. {name} has {a} {items}. How many {items} does {other} have?",
            "{name} [found|collected|picked] {a} {items} and {other} [found|collected|picked] half as many. "
            "How many {items} does {other} have?",
            "If {name} has {a} {items} and {other} has half that number, how many {items} does {other} have?",
        ),
        {"a": (4, 300)},
    ),
    Scenario(
        "cost",
        ("a * b",),
        "how much the {goods} cost",
        "{name} buys {a} {goods}; each costs ${b}",
        (
            "{name} buys {a} {goods}. Each {good} costs ${b}. How much does {name} pay?",
            "A {good} costs ${b}. How much [do|would] {a} {goods} cost {name}?",
            "At the {place}, {name} bought {a} {goods} for ${b} each. How much did {he} [pay|spend]?",
            "{name} wants {a} {goods}. The price of one {good} is ${b}. How many dollars does {he} need?",
        ),
        {"a": TENS, "b": TENS},
    ),
    Scenario(
        "change",
        ("a - b",),
        "how much money {name} has left",
        "{name} has ${a}; {name} spends ${b}",
        (
            "{name} has ${a}. {He} buys a {good} for ${b}. How much money does {name} have left?",
            "{name} pays for a {good} that costs ${b} with ${a}. How much change does {he} get?",
            "A {good} costs ${b}. {name} has ${a} and buys it. How many dollars does {he} have left?",
            "[On {day}, |]{name} went to the {place} with ${a} and spent ${b}[ there|]. "
            "How much money does {he} have left?",
        ),
        {"a": (4, 200)},
    ),
    Scenario(
        "other_part",
        ("a - b",),
        "how many {items} are {hue}",
        "there are {a} {items}; {b} are {color} and the others are {hue}",
        (
            "{name} has {a} {items}. {b} of them are {color} and the rest are {hue}. How many {items} are {hue}?",
            "There are {a} {items} in a {box}. {b} are {color}, the others are {hue}. "
            "How many {hue} {items} are there?",
            "Of the {a} {items} in the {place}, {b} are {color}. All the others are {hue}. "
            "How many {hue} {items} are there?",
            "How many {hue} {items} does {name} have if {b} of {his} {a} {items} are {color} and all others are {hue}?",
        ),
        {"a": MANY},
    ),
    Scenario(
        "still_needed",
        ("a - b",),
        "how many more {items} {name} needs",
        "{name} needs {a} {items}; {name} has {b}",
        (
            "{name} needs {a} {items}. {He} has {b}[ of them| already|]. How many more {items} does {name} need?",
            "{name} has {b} {items} but needs {a}. How many more {items} does {he} need?",
            "{name} wants to [collect|have] {a} {items}. So far {he} has {b}. How many {items} are still missing?",
            "For the {place}, {name} needs {a} {items}. How many more does {he} need if {he} already has {b} {items}?",
        ),
        {"a": MANY},
    ),
)
