"""Asking problems and comparing what comes of them with what is right."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from edgereason.decoding.continuous_batching import DEFAULT_BATCH_SIZE
from edgereason.errors import ContextError, UsageError
from edgereason.evaluation import code_execution, formulas
from edgereason.evaluation.accuracy import Accuracy, Row
from edgereason.pipeline.batch import Outcome
from edgereason.pipeline.options import AskKeywords
from edgereason.pipeline.reasoner import Reasoner
from edgereason.pipeline.results import Result
from edgereason.pipeline.voting import majority
from edgereason.problems.equivalence import is_formula, same_result
from edgereason.problems.extraction import extract
from edgereason.problems.records import Problem

Mode = Literal["two-stage", "answer-only", "guidance-only"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class EvaluationSettings:
    """How problems are asked.

    Attributes:
        mode: `two-stage` writes guidance and answers with it; `answer-only` asks the answer model alone;
            `guidance-only` asks the guidance model alone and takes its text for the answer. Well-formed
            guidance states no result: what is right there was given away, or is a number of the question by chance.
        samples: Answers per question, of which the majority's result counts (arXiv 2203.11171). One is greedy, several
            are sampled as `Reasoner.batch` samples them.
        seed: Random seed of several samples.
        max_new_tokens: Maximum tokens per stage; the bundle's own limits when None.
        calculator: Whether computations in the answer get their results from a calculator; None for what the bundle's
            answer adapter was trained with.

    Raises:
        UsageError: there is no such mode.
    """

    mode: Mode = "two-stage"
    samples: int = 1
    seed: int = 0
    max_new_tokens: int | None = None
    calculator: bool | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"There is no mode {self.mode!r}.", f"The modes are {', '.join(MODES)}.")

    def options(self) -> AskKeywords:
        """The keywords of `Reasoner.batch`."""
        greedy: AskKeywords = (
            {"temperature": 0.0} if self.samples == 1 else {"samples": self.samples, "seed": self.seed}
        )
        return {
            "guidance": self.mode != "answer-only",
            "answer": self.mode != "guidance-only",
            "max_new_tokens": self.max_new_tokens,
            "calculator": self.calculator,
            **greedy,
        }

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


TWO_STAGE = EvaluationSettings()


def measure_accuracy(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    way: EvaluationSettings = TWO_STAGE,
    *,
    before: Sequence[Row] = (),
    report: Callable[[list[Row]], object] | None = None,
    allow_code: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Accuracy:
    """Ask every problem, up to `batch_size` sequences at once, and compare the final results.

    A problem that does not fit the model's context is a row with an `error` that counts as wrong.

    Args:
        reasoner: Answers them.
        problems: All of them.
        way: How they are asked.
        before: Rows of the first problems, from an earlier run; these are not asked again.
        report: Called after each problem with all rows so far.
        allow_code: Run the answers to problems of the kind `code`; `evaluation.code_execution` says how they are
            confined.
        batch_size: Maximum sequences per forward pass.

    Raises:
        UsageError: an option is out of its range, there is code and it is not allowed, or there are formulas and
            Math-Verify, which compares them, is not installed.
    """
    _check_code(problems, way, allow_code)
    _check_formulas(problems)
    rows = list(before)
    asked: deque[Problem] = deque()

    def texts() -> Iterator[str]:
        for problem in problems[len(before) :]:
            asked.append(problem)
            yield problem.text

    with closing(reasoner.batch(texts(), batch_size=batch_size, **way.options())) as outcomes:
        for outcome in outcomes:
            rows.append(_row(asked.popleft(), outcome, way))
            if report:
                report(rows)
    return Accuracy(tuple(rows))


def _check_code(problems: Sequence[Problem], way: EvaluationSettings, allowed: bool) -> None:
    if not any(problem.kind == "code" for problem in problems):
        return
    if not allowed:
        raise UsageError(
            "Problems whose answers are programs are measured by running what the model writes.",
            "Allow it with --allow-code, on a machine where a program's mistake can do no harm.",
        )
    if way.samples != 1:
        raise UsageError("Programs cannot be voted on.", "Leave --samples out.")


def _check_formulas(problems: Sequence[Problem]) -> None:
    first = next((each.expected for each in problems if each.kind == "result" and is_formula(each.expected)), None)
    if first is not None and not formulas.available():
        raise UsageError(
            f"The result {first!r} is a formula, and Math-Verify, which compares formulas, is not installed.",
            'Install it with `pip install "edgereason[eval]"`.',
        )


def _row(problem: Problem, outcome: Outcome, way: EvaluationSettings) -> Row:
    head = {"question": problem.text, "expected": problem.expected, "structure": problem.structure}
    if outcome.error is not None:
        if not isinstance(outcome.error, ContextError):
            raise outcome.error
        return Row(**head, guidance="", answer="", final=None, correct=False, error=outcome.error.what)
    # The vote is on results as this data set's rules find them.
    finals = [replace(each, final=extract(problem, _text(each, way))) for each in outcome.samples]
    chosen = majority(finals, way.samples)
    correct = chosen.final is not None and _is_right(problem, chosen.final)
    return Row(**head, guidance=chosen.guidance, answer=chosen.answer, final=chosen.final, correct=correct)


def _text(result: Result, way: EvaluationSettings) -> str:
    return result.guidance if way.mode == "guidance-only" else result.answer


def _is_right(problem: Problem, final: str) -> bool:
    if problem.kind == "code":
        return code_execution.passes(problem, final)
    return same_result(final, problem.expected, formulas.same_formula)
