"""The scenarios of the arithmetic word problems, as data.

A scenario is a story told in several wordings, the computation that it asks for, and what guidance says about it.
`{slots}` are filled by `generator.py`; `[one|another]` chooses one alternative, where an empty one is allowed. Wordings
vary freely, but what guidance and answer say depends only on slots that every wording shows, so that they follow from
the question.

Numbers are `{a}`, `{b}`, `{c}`; a step is "left operator right", where "#1" is the result of the first step and a
literal 2 stands for doubling or halving. Other slots: `{name}` `{other}` `{third}` with the pronouns `{he}` `{him}`
`{his}` of the first and `{she}` of the second, `{item}` `{items}` (things), `{good}` `{goods}` `{thing}` (things sold),
`{box}` `{boxes}` (containers), `{people}`, `{color}` `{hue}`, `{place}`, `{day}`. A slot that starts with a capital
letter starts a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Range = tuple[int, int]


@dataclass(frozen=True)
class Scenario:
    """One kind of problem.

    Attributes:
        name: Unique, for reports.
        steps: The computation, in order; the last step gives the result.
        asked: What guidance says is asked.
        given: What guidance says is given.
        stories: The wordings of the question.
        ranges: Inclusive range of each number where it is not the usual one.
    """

    name: str
    steps: tuple[str, ...]
    asked: str
    given: str
    stories: tuple[str, ...]
    ranges: dict[str, Range] = field(default_factory=dict)


FEW: Range = (2, 12)
TENS: Range = (2, 25)
COUNT: Range = (2, 99)
MANY: Range = (4, 300)
SHARED: Range = (6, 240)
