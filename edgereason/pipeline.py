"""Guidance, then answer: the two-stage pipeline of Solution Guidance Fine-Tuning (arXiv 2412.09906)."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgereason.bundle import DEFAULT_BUNDLE, STAGES, Bundle, Stage
from edgereason.engines import open_engine
from edgereason.engines.base import Session
from edgereason.errors import ContextError, UsageError
from edgereason.generate import Sampler, StageTimings, decode_ids, decode_text
from edgereason.language_model import LanguageModel
from edgereason.prompts import final_result
from edgereason.reading_along import ReadingAlong
from edgereason.results import Event, Result, Timings
from edgereason.sequences import Sequences
from edgereason.speculation import PromptLookup
from edgereason.techniques import ALL, Techniques

if TYPE_CHECKING:
    from edgereason.batch import Outcome


@dataclass(frozen=True)
class _Writing:
    """A stage's text that is about to be written."""

    name: str
    stage: Stage
    prompt: list[int]
    limit: int
    session: Session
    timings: StageTimings
    started: float


class Reasoner:
    """A loaded bundle that answers questions. Safe to use from several threads; a context manager.

    Attributes:
        bundle: What was loaded.
        techniques: What makes two stages cost less than two models.
        models: The two stages' models, `guidance` and `answer`.
        load_s: How long loading took, in seconds.
    """

    def __init__(
        self, bundle: Bundle, engine: str = "auto", threads: int | None = None, techniques: Techniques = ALL
    ) -> None:
        started = time.perf_counter()
        self.bundle = bundle
        self.techniques = techniques
        self.models: dict[str, LanguageModel] = {}
        try:
            for stage in STAGES:
                self.models[stage] = self._open(stage, engine, threads)
        except BaseException:
            for model in self.models.values():
                model.close()
            raise
        self._sequences = Sequences(bundle, self.models, techniques)
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
        with ExitStack() as opened:
            before: Session | None = None
            ended = 0.0
            if with_guidance:
                writing = self._begin("guidance", stages, timings.guidance, question)
                opened.callback(writing.session.close)
                along = self._sequences.read_along(writing.session, question, stages)
                if along is not None:
                    opened.callback(along.close)
                for piece in self._write(writing, along):
                    guidance += piece
                    yield Event("guidance", piece)
                if along is not None:
                    before = along.reader
                elif self.techniques.shared_question:
                    before = writing.session
                ended = writing.started + timings.guidance.ttft_s + timings.guidance.decode_s
            writing = self._begin("answer", stages, timings.answer, question, guidance.strip() or None, before)
            opened.callback(writing.session.close)
            for piece in self._write(writing):
                answer += piece
                yield Event("answer", piece)
            if with_guidance:
                timings.handover_s = writing.started + timings.answer.ttft_s - ended
        timings.total_s = time.perf_counter() - started
        self._sequences.save()
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

    def _begin(
        self,
        name: str,
        stages: dict[str, Stage],
        timings: StageTimings,
        question: str,
        guidance: str | None = None,
        before: Session | None = None,
    ) -> _Writing:
        """Open the session of a stage's text; `before` is one that may hold the beginning of its prompt."""
        started = time.perf_counter()
        prompt, limit = self.prompt(name, stages[name], question, guidance)
        session = self.session(name, prompt, len(prompt) + limit, before)
        return _Writing(name, stages[name], prompt, limit, session, timings, started)

    def _write(self, writing: _Writing, along: ReadingAlong | None = None) -> Iterator[str]:
        """A stage's text, piece by piece, with the next stage reading along."""
        stage, prompt, model = writing.stage, writing.prompt, self.models[writing.name]
        ids = decode_ids(
            along or writing.session,
            prompt,
            Sampler(stage.sampling, prompt),
            stage.stop_ids,
            writing.limit,
            writing.timings,
            writing.started,
            PromptLookup(prompt, model.engine.row_cost) if self.techniques.speculation else None,
        )
        for piece in decode_text(ids, model.tokenizer.stream(), stage.stop_strings):
            if along is not None:
                along.hear(piece)
            yield piece
        self._sequences.keep(writing.name, writing.session)

    def session(self, name: str, prompt: Sequence[int], capacity: int, before: Session | None = None) -> Session:
        """A session of a stage's model that holds the known beginning of `prompt`, and never its last token.

        Args:
            name: The stage.
            prompt: Token ids, at least one.
            capacity: Most tokens that it has to hold.
            before: A session that may begin as the prompt does.
        """
        return self._sequences.open(name, prompt, capacity, before)

    def prepare(self) -> None:
        """Compute what all prompts begin with, before many questions are asked at once."""
        self._sequences.prepare()

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
        self._sequences.close()
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


def load(
    bundle: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    techniques: Techniques = ALL,
) -> Reasoner:
    """Load a bundle.

    Args:
        bundle: A bundle's directory; None loads the example model that ships with the package.
        engine: `native`, `llama.cpp`, `onnx`, or `auto` for the one that runs the bundle's format.
        threads: How many threads to compute with; None lets the engine choose.
        techniques: What makes two stages cost less than two models; all that the engine and the bundle allow.

    Raises:
        BundleError: the bundle is missing, damaged, or of an unknown kind.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: `engine` or `threads` cannot be used.
    """
    started = time.perf_counter()
    opened = Bundle.open(Path(bundle) if bundle is not None else DEFAULT_BUNDLE)
    reasoner = Reasoner(opened, engine, threads, techniques)
    reasoner.load_s = time.perf_counter() - started
    return reasoner
