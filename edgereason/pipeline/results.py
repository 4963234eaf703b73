"""What a question comes to: the result, the events on the way to it, and where the time went."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgereason.decoding.timings import StageTimings

StageName = Literal["guidance", "answer"]


@dataclass
class Timings:
    """Durations in seconds: loading the bundle, each stage, and the whole question without loading.

    `handover_s` is from the guidance's last token to the answer's first; 0 where one of them was not written.
    """

    load_s: float = 0.0
    guidance: StageTimings = field(default_factory=StageTimings)
    answer: StageTimings = field(default_factory=StageTimings)
    handover_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """What came of a question.

    Attributes:
        guidance: The first stage's text; empty when it was switched off.
        answer: The second stage's text.
        final: The result that the answer ends with; None when it names none.
        engine: The engine that ran.
        bundle: The bundle's directory.
        samples: How many answers were written; the one shown is of the majority.
        agreement: The share of them with this final result; None for a single one.
        notices: What had to be done to get here that a reader should know, as sentences.
        confidence: How sure the guidance model was of its text: the geometric mean of its tokens' probabilities; None
            where it wrote none.
        in_domain: Whether that is as much as the bundle asks for. Below that, the question is outside of what the model
            knows; None where the bundle asks for nothing, or no guidance was written.
    """

    question: str
    guidance: str
    answer: str
    final: str | None
    engine: str
    bundle: str
    timings: Timings
    samples: int = 1
    agreement: float | None = None
    notices: tuple[str, ...] = ()
    confidence: float | None = None
    in_domain: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries, strings and numbers."""
        return asdict(self)


@dataclass(frozen=True)
class Event:
    """A piece of a stage's text as it is written, or at the end the whole result.

    Attributes:
        stage: `guidance` or `answer` for a piece of text, `result` for the last event.
        text: The piece; the final result in the last event.
        result: Only in the last event.
    """

    stage: Literal["guidance", "answer", "result"]
    text: str
    result: Result | None = None
