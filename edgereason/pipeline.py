"""Guidance, then answer: the two-stage pipeline of Solution Guidance Fine-Tuning (arXiv 2412.09906)."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgereason.bundle import DEFAULT_BUNDLE, STAGES, Bundle, Stage
from edgereason.engines import open_engine
from edgereason.errors import ContextError, UsageError
from edgereason.generate import Sampler, StageTimings, decode_ids, decode_text
from edgereason.language_model import LanguageModel
from edgereason.prompts import final_result

if TYPE_CHECKING:
    from edgereason.batch import Outcome


@dataclass
class Timings:
    """Durations in seconds: loading the bundle, each stage, and the whole question without loading."""

    load_s: float = 0.0
    guidance: StageTimings = field(default_factory=StageTimings)
    answer: StageTimings = field(default_factory=StageTimings)
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


class Reasoner:
    """A loaded bundle that answers questions. Safe to use from several threads; a context manager.

    Attributes:
        bundle: What was loaded.
        models: The two stages' models, `guidance` and `answer`.
        load_s: How long loading took, in seconds.
    """

    def __init__(self, bundle: Bundle, engine: str = "auto", threads: int | None = None) -> None:
        started = time.perf_counter()
        self.bundle = bundle
        self.models: dict[str, LanguageModel] = {}
        try:
            for stage in STAGES:
                self.models[stage] = self._open(stage, engine, threads)
        except BaseException:
            self.close()
            raise
        self.load_s = time.perf_counter() - started

    def _open(self, stage: str, engine: str, threads: int | None) -> LanguageModel:
        directory = self.bundle.path / stage
        if not self.bundle.shared:
            return LanguageModel(open_engine(directory, engine, threads), directory)
        opened = next((model.engine for model in self.models.values()), None)
        opened = opened or open_engine(self.bundle.model(stage), engine, threads)
        return LanguageModel(opened, directory, opened.load_adapter(directory))

    def ask(
        self,
        question: str,
        *,
        guidance: bool = True,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        samples: int = 1,
    ) -> Result:
        """Answer a question.

        Args:
            question: The question, in words.
            guidance: False skips the first stage; the answer model then sees the question alone.
            max_new_tokens: Most tokens per stage; the bundle's own limit when None.
            temperature: 0 for greedy decoding; the bundle's own when None.
            seed: Makes sampling repeatable.
            samples: How many guidances and answers to write at once; the majority's is the result, and
                `Result.agreement` tells how large it is. More than one are drawn at temperature 0.7 by default.

        Raises:
            UsageError: the question is empty or an argument is out of its range.
            ContextError: the question is longer than a stage's context.
        """
        for event in self.stream(
            question,
            guidance=guidance,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            samples=samples,
        ):
            if event.result is not None:
                return event.result
        raise AssertionError("a stream ends with its result")

    def stream(
        self,
        question: str,
        *,
        guidance: bool = True,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        samples: int = 1,
    ) -> Iterator[Event]:
        """Like `ask`, as events: pieces of guidance, pieces of answer, and last the result.

        Of several samples the majority's guidance and answer come in one piece each, when all are written. Closing the
        iterator early stops the work and frees its memory.
        """
        check_question(question)
        if samples != 1:
            return _voted(
                self.batch(
                    [question],
                    samples=samples,
                    guidance=guidance,
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    seed=seed,
                )
            )
        return self._stream(question.strip(), guidance, self.stages(max_new_tokens, temperature, seed))

    def batch(
        self,
        questions: Iterable[str],
        *,
        size: int = 16,
        samples: int = 1,
        guidance: bool = True,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Generator[Outcome, None, None]:
        """Answer many questions, several in each pass over the weights where the engine can do that.

        Args:
            questions: Taken one by one, as there is room for them.
            size: Most texts in one pass. Each has a KV cache of its own.
            samples: Answers per question, of which the majority's is the result (see `Result.agreement`). More than one
                are drawn at temperature 0.7 unless another is asked for.
            guidance, max_new_tokens, temperature, seed: As for `ask`; each question's result is that of `ask`.

        Returns:
            An outcome for each question, in their order: its result, or the error that ended it alone. Closing the
            iterator stops the work and frees its memory.

        Raises:
            UsageError: an argument is out of its range.
        """
        from edgereason.batch import answer_all  # which needs this module

        return answer_all(
            self,
            questions,
            size=size,
            samples=samples,
            guidance=guidance,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )

    def stages(self, max_new_tokens: int | None, temperature: float | None, seed: int | None) -> dict[str, Stage]:
        """The bundle's stages with a caller's wishes in place of their defaults; None leaves a default.

        Raises:
            UsageError: an argument is out of its range.
        """
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UsageError(f"max-tokens is {max_new_tokens}.", "Give 1 or more.")
        return {name: _adjusted(self.bundle.stages[name], max_new_tokens, temperature, seed) for name in STAGES}

    def _stream(self, question: str, with_guidance: bool, stages: dict[str, Stage]) -> Iterator[Event]:
        started = time.perf_counter()
        timings = Timings(load_s=self.load_s)
        guidance, answer = "", ""
        if with_guidance:
            for piece in self._run("guidance", stages["guidance"], timings.guidance, question, None):
                guidance += piece
                yield Event("guidance", piece)
        for piece in self._run("answer", stages["answer"], timings.answer, question, guidance.strip() or None):
            answer += piece
            yield Event("answer", piece)
        timings.total_s = time.perf_counter() - started
        result = self.result(question, guidance, answer, timings)
        yield Event("result", result.final or "", result)

    def result(self, question: str, guidance: str, answer: str, timings: Timings) -> Result:
        """What both stages' texts come to."""
        return Result(
            question=question,
            guidance=guidance.strip(),
            answer=answer.strip(),
            final=final_result(answer),
            engine=self.models["answer"].engine.name,
            bundle=str(self.bundle.path),
            timings=timings,
        )

    def _run(
        self, name: str, stage: Stage, timings: StageTimings, question: str, guidance: str | None
    ) -> Iterator[str]:
        started = time.perf_counter()
        model = self.models[name]
        prompt, limit = self.prompt(name, stage, question, guidance)
        session = model.session(len(prompt) + limit)
        try:
            sampler = Sampler(stage.sampling, prompt)
            ids = decode_ids(session, prompt, sampler, stage.stop_ids, limit, timings, started)
            yield from decode_text(ids, model.tokenizer.stream(), stage.stop_strings)
        finally:
            session.close()

    def prompt(self, name: str, stage: Stage, question: str, guidance: str | None) -> tuple[list[int], int]:
        """The token ids of a stage's prompt, and how many new tokens there is room for, at most the stage's limit.

        Raises:
            ContextError: the prompt fills the model's context.
        """
        model = self.models[name]
        prompt = model.tokenizer.encode(model.tokenizer.render(stage.prompt.messages(question, guidance)))
        room = model.engine.context_length - len(prompt)
        if room < 1:
            what = "question" if guidance is None else "question and its guidance"
            raise ContextError(
                f"The {what} come to {len(prompt):,} tokens; "
                f"the {name} model's context holds {model.engine.context_length:,}.",
                "Shorten the question, or use a model with a longer context.",
            )
        return prompt, min(stage.max_new_tokens, room)

    def close(self) -> None:
        """Give the models' memory back."""
        for model in self.models.values():
            model.close()
        self.models = {}

    def __enter__(self) -> Reasoner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _voted(outcomes: Generator[Outcome, None, None]) -> Iterator[Event]:
    """A single vote as the events of a stream."""
    with closing(outcomes):
        outcome = next(outcomes)
    if outcome.error is not None:
        raise outcome.error
    result = outcome.result
    assert result is not None
    if result.guidance:
        yield Event("guidance", result.guidance)
    yield Event("answer", result.answer)
    yield Event("result", result.final or "", result)


def check_question(question: str) -> None:
    """Raise `UsageError` for an empty question."""
    if not question.strip():
        raise UsageError("The question is empty.", 'Write one: edgereason ask "..."')


def _adjusted(stage: Stage, max_new_tokens: int | None, temperature: float | None, seed: int | None) -> Stage:
    """The stage with the caller's wishes in place of the bundle's defaults."""
    sampling = stage.sampling
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    if seed is not None:
        sampling = replace(sampling, seed=seed)
    return replace(stage, sampling=sampling, max_new_tokens=max_new_tokens or stage.max_new_tokens)


def load(bundle: str | Path | None = None, engine: str = "auto", threads: int | None = None) -> Reasoner:
    """Load a bundle.

    Args:
        bundle: A bundle's directory; None loads the example model that ships with the package.
        engine: `native`, `llama.cpp`, `onnx`, or `auto` for the one that runs the bundle's format.
        threads: How many threads to compute with; None lets the engine choose.

    Raises:
        BundleError: the bundle is missing, damaged, or of an unknown kind.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: `engine` or `threads` cannot be used.
    """
    started = time.perf_counter()
    reasoner = Reasoner(Bundle.open(Path(bundle) if bundle is not None else DEFAULT_BUNDLE), engine, threads)
    reasoner.load_s = time.perf_counter() - started
    return reasoner
