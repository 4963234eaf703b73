"""Guidance, then answer: the two-stage pipeline of Solution Guidance Fine-Tuning (arXiv 2412.09906)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgereason.bundle import DEFAULT_BUNDLE, STAGES, Bundle, Stage
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.continuous_batching import DEFAULT_SIZE
from edgereason.decoding.loop import decode_ids, decode_text
from edgereason.decoding.prompt_lookup import Acceptance, PromptLookup
from edgereason.decoding.result_forcing import ResultForcing
from edgereason.decoding.sampling import Sampler
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Session
from edgereason.errors import UsageError
from edgereason.language_model import LanguageModel
from edgereason.pipeline.events import in_time, voted
from edgereason.pipeline.external_models import open_answer_model, open_stage
from edgereason.pipeline.options import Asking, Options
from edgereason.pipeline.prompting import PreparedPrompt, prepare
from edgereason.pipeline.results import Event, Result, Timings
from edgereason.prefill.optimizations import ALL, Optimizations
from edgereason.prefill.overlapped import OverlappedPrefill
from edgereason.prefill.sessions import StageSessions
from edgereason.problems.final_result import final_result

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from edgereason.pipeline.batch import Outcomes
    from edgereason.pipeline.remote import RemoteModel


@dataclass(frozen=True)
class _Writing:
    """A stage's text that is about to be written."""

    name: str
    stage: Stage
    prompt: PreparedPrompt
    session: Session
    timings: StageTimings
    started: float
    confidence: Confidence | None


@dataclass
class _Told:
    """What there is of a result so far; `ended` is when the guidance's last token came, 0 before that."""

    timings: Timings
    guidance: str = ""
    answer: str = ""
    ended: float = 0.0
    confidence: Confidence = field(default_factory=Confidence)
    notices: tuple[str, ...] = ()


class Reasoner:
    """A loaded bundle that answers questions. Safe to use from several threads; a context manager.

    Attributes:
        bundle: What was loaded.
        optimizations: What makes two stages cost less than two models.
        models: The two stages' models, `guidance` and `answer`; the latter is missing where a server answers.
        remote: The server that answers, if one does.
        load_s: How long loading took, in seconds.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        threads: int | None = None,
        optimizations: Optimizations = ALL,
        answer_model: str | Path | None = None,
        gpu_layers: int | None = None,
    ) -> None:
        started = time.perf_counter()
        self.bundle = bundle
        self.optimizations = optimizations
        self.models: dict[str, LanguageModel] = {}
        self.remote: RemoteModel | None = None
        try:
            for stage in STAGES if answer_model is None else ("guidance",):
                self.models[stage] = self._open(stage, engine, threads, gpu_layers)
            if answer_model is not None:
                self._take_answer_model(*open_answer_model(answer_model, threads))
        except BaseException:
            for model in self.models.values():
                model.close()
            raise
        foreign = frozenset[str]() if answer_model is None else frozenset({"answer"})
        self._acceptance = {stage: Acceptance() for stage in self.models}
        self._sessions = StageSessions(self.bundle, self.models, optimizations, foreign)
        self.load_s = time.perf_counter() - started

    def _open(self, stage: str, engine: str, threads: int | None, gpu_layers: int | None) -> LanguageModel:
        opened = next((model.engine for model in self.models.values()), None)
        if opened is None or not self.bundle.shared:
            return open_stage(self.bundle, stage, engine, threads, gpu_layers)
        directory = self.bundle.path / stage
        return LanguageModel(opened, directory, opened.load_adapter(directory))

    def _take_answer_model(self, model: LanguageModel | RemoteModel, stage: Stage) -> None:
        # Another model's stages have nothing in common with the guidance's.
        self.bundle = replace(self.bundle, layout="merged", stages={**self.bundle.stages, "answer": stage})
        if isinstance(model, LanguageModel):
            self.models["answer"] = model
        else:
            self.remote = model

    def ask(
        self, question: str, *, on_event: Callable[[Event], object] | None = None, **options: Unpack[Options]
    ) -> Result:
        """Answer a question.

        Args:
            question: The question, in words.
            on_event: Called with each piece of text as it is written, and at the end with the result.
            options: See `edgereason.pipeline.options.Asking`.

        Raises:
            UsageError: the question is empty or an option is out of its range.
            ContextError: the question is longer than a stage's context.
            OutOfTimeError: the timeout has passed.
        """
        result = None
        for event in self.stream(question, **options):
            result = event.result
            if on_event is not None:
                on_event(event)
        assert result is not None, "a stream ends with its result"
        return result

    def stream(self, question: str, **options: Unpack[Options]) -> Iterator[Event]:
        """Like `ask`, as events: pieces of guidance, pieces of answer, and last the result.

        Of several samples the majority's guidance and answer come in one piece each, when all are written. Closing the
        iterator early stops the work and frees its memory.
        """
        check_question(question)
        asking = Asking(**options)
        if asking.calculator and self.remote is not None:
            raise UsageError("A server writes its answer itself, without our calculator.", "Leave --calculator out.")
        if asking.samples != 1:
            return voted(self._batch([question], DEFAULT_SIZE, asking))
        events = self._stream(question.strip(), asking, asking.stages(self.bundle.stages))
        return events if asking.timeout is None else in_time(events, asking.timeout)

    async def aask(self, question: str, **options: Unpack[Options]) -> Result:
        """`ask` for asyncio; cancelling the task stops the work."""
        from edgereason.pipeline.asynchronous import last_result  # asyncio would cost every program's start

        return await last_result(self.astream(question, **options))

    def astream(self, question: str, **options: Unpack[Options]) -> AsyncGenerator[Event, None]:
        """`stream` for asyncio; closing the generator or cancelling the task stops the work."""
        from edgereason.pipeline.asynchronous import events

        return events(self.stream(question, **options))

    def batch(self, questions: Iterable[str], *, size: int = DEFAULT_SIZE, **options: Unpack[Options]) -> Outcomes:
        """Answer many questions, several in each pass over the weights where the engine can do that.

        Args:
            questions: Taken one by one, as there is room for them.
            size: Most texts in one pass. Each has a KV cache of its own.
            options: As for `ask`, without a timeout; each question's result is that of `ask`.

        Returns:
            An outcome for each question, in their order: its result, or the error that ended it alone. `cancel(number)`
            gives up one question; closing the iterator stops the work and frees its memory.

        Raises:
            UsageError: an option is out of its range.
        """
        return self._batch(questions, size, Asking(**options))

    def _batch(self, questions: Iterable[str], size: int, asking: Asking) -> Outcomes:
        from edgereason.pipeline.batch import answer_all  # which needs this module

        return answer_all(self, questions, size, asking)

    def _stream(self, question: str, asking: Asking, stages: dict[str, Stage]) -> Iterator[Event]:
        started = time.perf_counter()
        told = _Told(Timings(load_s=self.load_s), guidance=asking.given)
        with ExitStack() as opened:
            before: Session | None = None
            if asking.guidance is True:
                before = yield from self._guide(question, stages, told, opened, asking.answer)
            if asking.answer:
                yield from self._answer(question, stages, told, opened, before)
        told.timings.total_s = time.perf_counter() - started
        self._sessions.save()
        texts = (told.guidance, told.answer)
        result = self.result(question, *texts, told.timings, told.notices, told.confidence.value)
        yield Event("result", result.final or "", result)

    def _guide(
        self, question: str, stages: dict[str, Stage], told: _Told, opened: ExitStack, read: bool
    ) -> Generator[Event, None, Session | None]:
        """Write the guidance, the answer model reading along with `read`; returns what holds the answer's beginning."""
        writing = self._begin("guidance", stages, told.timings.guidance, question, confidence=told.confidence)
        opened.callback(writing.session.close)
        along = self._sessions.overlap(writing.session, question, stages) if read else None
        if along is not None:
            opened.callback(along.close)
        for piece in self._write(writing, along):
            told.guidance += piece
            yield Event("guidance", piece)
        told.ended = writing.started + writing.timings.ttft_s + writing.timings.decode_s
        if along is not None:
            return along.reader
        return writing.session if self.optimizations.shared_question else None

    def _answer(
        self, question: str, stages: dict[str, Stage], told: _Told, opened: ExitStack, before: Session | None
    ) -> Iterator[Event]:
        """Write the answer; `before` may hold the beginning of its prompt."""
        guidance = told.guidance.strip() or None
        if self.remote is not None:
            pieces = self._write_remotely(self.remote, stages["answer"], told.timings.answer, question, guidance)
        else:
            writing = self._begin("answer", stages, told.timings.answer, question, guidance, before)
            opened.callback(writing.session.close)
            told.notices += writing.prompt.notices
            pieces = self._write(writing)
        started = time.perf_counter() if self.remote is not None else writing.started
        for piece in pieces:
            told.answer += piece
            yield Event("answer", piece)
        if told.ended:
            told.timings.handover_s = started + told.timings.answer.ttft_s - told.ended

    def result(
        self,
        question: str,
        guidance: str,
        answer: str,
        timings: Timings,
        notices: tuple[str, ...],
        confidence: float | None,
    ) -> Result:
        """What both stages' texts come to; the confidence is the guidance model's, None where it wrote none."""
        least = self.bundle.stages["guidance"].prompt.min_confidence
        return Result(
            question=question,
            guidance=guidance.strip(),
            answer=answer.strip(),
            final=final_result(answer),
            engine=self.remote.name if self.remote else self.models["answer"].engine.name,
            bundle=str(self.bundle.path),
            timings=timings,
            notices=notices,
            confidence=confidence,
            in_domain=None if confidence is None or least is None else confidence >= least,
        )

    def _begin(
        self,
        name: str,
        stages: dict[str, Stage],
        timings: StageTimings,
        question: str,
        guidance: str | None = None,
        before: Session | None = None,
        confidence: Confidence | None = None,
    ) -> _Writing:
        """Open the session of a stage's text; `before` is one that may hold the beginning of its prompt."""
        started = time.perf_counter()
        prompt = self.prompt(name, stages[name], question, guidance)
        session = self.session(name, prompt.ids, len(prompt.ids) + prompt.limit, before)
        return _Writing(name, stages[name], prompt, session, timings, started, confidence)

    def _write(self, writing: _Writing, along: OverlappedPrefill | None = None) -> Iterator[str]:
        """A stage's text, piece by piece, with the next stage reading along."""
        stage, prompt, model = writing.stage, writing.prompt.ids, self.models[writing.name]
        ids = decode_ids(
            along or writing.session,
            prompt,
            Sampler(stage.sampling, prompt),
            stage.stop_ids,
            writing.prompt.limit,
            writing.timings,
            writing.started,
            self.lookup(writing.name, prompt),
            self.forcing(writing.name, stage),
            writing.confidence,
        )
        for piece in decode_text(ids, model.tokenizer.stream(), stage.stop_strings):
            if along is not None:
                along.hear(piece)
            yield piece
        self._sessions.keep(writing.name, writing.session)

    def session(self, name: str, prompt: Sequence[int], capacity: int, before: Session | None = None) -> Session:
        """A session of a stage's model that holds the known beginning of `prompt`, and never its last token.

        Args:
            name: The stage.
            prompt: Token ids, at least one.
            capacity: Most tokens that it has to hold.
            before: A session that may begin as the prompt does.
        """
        return self._sessions.open(name, prompt, capacity, before)

    def forcing(self, name: str, stage: Stage) -> ResultForcing | None:
        """What writes the results of a stage's computations; None where the model writes them itself."""
        return ResultForcing(self.models[name].tokenizer) if name == "answer" and stage.prompt.calculator else None

    def lookup(self, name: str, prompt: Sequence[int]) -> PromptLookup | None:
        """What proposes tokens of a stage's text, as earlier texts of the stage have shown to be worth it."""
        if not self.optimizations.speculation:
            return None
        return PromptLookup(prompt, self.models[name].engine.row_cost, self._acceptance[name])

    def prepare(self) -> None:
        """Compute what all prompts begin with, before many questions are asked at once."""
        self._sessions.prepare()

    def prompt(self, name: str, stage: Stage, question: str, guidance: str | None) -> PreparedPrompt:
        """A stage's prompt as token ids; see `prepare`."""
        return prepare(name, self.models[name], stage, question, guidance)

    def _write_remotely(
        self, remote: RemoteModel, stage: Stage, timings: StageTimings, question: str, guidance: str | None
    ) -> Iterator[str]:
        """A server's answer; each piece counts as a token."""
        started = time.perf_counter()
        messages = stage.prompt.messages(question, guidance)
        for piece in remote.write(messages, stage.max_new_tokens, stage.sampling, stage.stop_strings):
            now = time.perf_counter() - started
            timings.ttft_s = timings.ttft_s or now
            timings.prefill_s = timings.ttft_s
            timings.decode_s = now - timings.ttft_s
            timings.new_tokens += 1
            yield piece

    def close(self) -> None:
        """Give the models' memory back."""
        self._sessions.close()
        for model in self.models.values():
            model.close()
        self.models = {}

    def __enter__(self) -> Reasoner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_question(question: str) -> None:
    """Raise `UsageError` for an empty question."""
    if not question.strip():
        raise UsageError("The question is empty.", 'Write one: edgereason ask "..."')


def load(
    bundle: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    optimizations: Optimizations = ALL,
    answer_model: str | Path | None = None,
    gpu_layers: int | None = None,
    layout: str | None = None,
) -> Reasoner:
    """Load a bundle.

    Args:
        bundle: A bundle's directory, or one with bundles of several layouts; None loads the example model that ships
            with the package.
        engine: `native`, `llama.cpp`, `onnx`, or `auto` for the one that runs the bundle's format.
        threads: How many threads to compute with; None lets the engine choose.
        optimizations: What makes two stages cost less than two models; all that the engine and the bundle allow.
        answer_model: A model that answers in place of the bundle's own: another bundle, a GGUF file, or the address of
            a server that speaks OpenAI's chat completions.
        gpu_layers: How many layers llama.cpp computes on a GPU; None: all that its build can.
        layout: Which bundle to take, `merged` or `shared`; None takes the one that there is.

    Raises:
        BundleError: the bundle is missing, damaged, or of an unknown kind.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: `engine`, `threads` or `layout` cannot be used.
    """
    started = time.perf_counter()
    opened = Bundle.find(Path(bundle) if bundle is not None else DEFAULT_BUNDLE, layout)
    reasoner = Reasoner(opened, engine, threads, optimizations, answer_model, gpu_layers)
    reasoner.load_s = time.perf_counter() - started
    return reasoner
