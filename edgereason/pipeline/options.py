"""What a caller wants of an answer: the same options for one question, a stream, a batch or a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from edgereason.bundle import STAGES, Stage
from edgereason.errors import UsageError
from edgereason.pipeline.results import Result


class AskKeywords(TypedDict, total=False):
    """The keywords of `Reasoner.ask` and `Reasoner.stream`; `AskOptions` says what each means."""

    guidance: bool | str
    answer: bool
    max_new_tokens: int | Mapping[str, int] | None
    temperature: float | None
    seed: int | None
    calculator: bool | None
    samples: int
    timeout: float | None
    history: Sequence[Result]
    special_tokens: bool


@dataclass(frozen=True)
class AskOptions:
    """How a question is to be answered.

    Attributes:
        guidance: Whether to write guidance first. A text is taken as the guidance, and none is written.
        answer: Whether to answer; False ends after the guidance.
        max_new_tokens: Maximum new tokens per stage, for both or by stage; the bundle's own limits when None.
        temperature: 0 for greedy decoding; the bundle's own when None.
        seed: Random seed for sampling.
        calculator: Whether a calculator writes the results of computations in the answer, `<<16-3-4=`; by default where
            the answer model was trained to write them so.
        samples: How many times to sample guidance and answer; the majority's result wins, and `Result.agreement` tells
            how large the majority is. More than one are sampled at temperature 0.7 by default.
        timeout: Seconds after which answering is given up.
        history: Earlier turns of a conversation, oldest first, for models that were trained to see them.
        special_tokens: Whether special tokens in the question and the guidance are encoded as such; by default they are
            text, so that a question cannot end its own turn.

    Raises:
        UsageError: a value is out of its range, or two contradict each other.
    """

    guidance: bool | str = True
    answer: bool = True
    max_new_tokens: int | Mapping[str, int] | None = None
    temperature: float | None = None
    seed: int | None = None
    calculator: bool | None = None
    samples: int = 1
    timeout: float | None = None
    history: Sequence[Result] = ()
    special_tokens: bool = False

    def __post_init__(self) -> None:
        for stage, limit in self._limits().items():
            if stage not in STAGES:
                raise UsageError(f"There is no stage {stage!r}.", f"The stages are {' and '.join(STAGES)}.")
            if limit < 1:
                raise UsageError(f"max-tokens is {limit}.", "Give 1 or more.")
        if isinstance(self.guidance, str) and not self.guidance.strip():
            raise UsageError("The guidance is empty.", "Write some, or ask without guidance.")
        if not self.answer and self.guidance is not True:
            raise UsageError("Neither guidance nor answer is to be written.", "Ask for one of them.")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"timeout is {self.timeout}.", "Give a positive number of seconds.")
        if self.samples != 1 and (self.timeout is not None or not self.answer):
            raise UsageError("Several samples end when all are answered.", "Leave the timeout and guidance-only out.")

    @property
    def given_guidance(self) -> str:
        """The guidance that the caller gives; empty where there is none."""
        return self.guidance.strip() if isinstance(self.guidance, str) else ""

    def stages(self, stages: Mapping[str, Stage]) -> dict[str, Stage]:
        """A bundle's stages with these options in place of their defaults."""
        return {name: self._stage(name, stage) for name, stage in stages.items()}

    def _stage(self, name: str, stage: Stage) -> Stage:
        sampling = stage.sampling
        if self.temperature is not None:
            sampling = replace(sampling, temperature=self.temperature)
        if self.seed is not None:
            sampling = replace(sampling, seed=self.seed)
        limit = self._limits().get(name, stage.max_new_tokens)
        prompt = replace(stage.prompt, special_tokens=self.special_tokens).after(_turns(name, self.history))
        if name == "answer" and self.calculator is not None:
            prompt = replace(prompt, calculator=self.calculator)
        return replace(stage, prompt=prompt, sampling=sampling, max_new_tokens=limit)

    def _limits(self) -> Mapping[str, int]:
        if isinstance(self.max_new_tokens, int):
            return dict.fromkeys(STAGES, self.max_new_tokens)
        return self.max_new_tokens or {}


def _turns(name: str, history: Sequence[Result]) -> list[tuple[str, str | None, str]]:
    """What a stage was asked and what it wrote in each turn; turns without guidance show no example of it."""
    if name == "guidance":
        return [(turn.question, None, turn.guidance) for turn in history if turn.guidance]
    return [(turn.question, turn.guidance or None, turn.answer) for turn in history]
