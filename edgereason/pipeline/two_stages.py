"""Guidance, then answer: the one orchestration, whether one question streams or many share the forward passes.

The method is Solution Guidance Fine-Tuning (arXiv 2412.09906).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial

from edgereason.bundle import Stage
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.continuous_batching import Generating, Work
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Session
from edgereason.errors import UsageError
from edgereason.pipeline.options import AskOptions
from edgereason.pipeline.results import Event, Result, StageName, Timings
from edgereason.pipeline.runtime import Runtime, StageRequest
from edgereason.pipeline.voting import Stem
from edgereason.prefill.overlapped_prefill import OverlappedPrefill
from edgereason.problems.final_result import final_result

Emit = Callable[[Event], object]


def check_text(what: str, text: str) -> None:
    """Raise `UsageError` for a text that is none: bytes that are not UTF-8 come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"The {what} is not UTF-8 text.", "Save or type it as UTF-8.") from error


def check_question(question: str) -> None:
    """Raise `UsageError` for a question that is empty or no text."""
    if not question.strip():
        raise UsageError("The question is empty.", 'Write one: edgereason ask "..."')
    check_text("question", question)


class TwoStages:
    """One question on its way through both stages.

    Args:
        runtime: Models and sessions.
        question: The question, in words.
        options: What the caller wants.
        stages: The bundle's stages with those options applied.
        load_s: How long loading took, in seconds, for the result.
        emit: Takes the events of a question that streams. Such a question has the engine to itself, so that what
            shortens its wait is worth the memory: the answer's prompt is prefilled while the guidance is decoded, and
            sessions are kept for the prompts to come.
        stems: By stage what the prompts of several samples of one question share.
    """

    def __init__(
        self,
        runtime: Runtime,
        question: str,
        options: AskOptions,
        stages: Mapping[str, Stage],
        load_s: float = 0.0,
        emit: Emit | None = None,
        stems: Mapping[str, Stem] | None = None,
    ) -> None:
        self._runtime = runtime
        self._question = question
        self._options = options
        self._stages = stages
        self._emit = emit
        self._stems = stems
        self._timings = Timings(load_s=load_s)
        self._guidance = options.given_guidance
        self._answer = ""
        self._confidence = Confidence()
        self._notices: tuple[str, ...] = ()
        self._guidance_ended: float | None = None
        # Of a question that streams: what is open until its end, and which session the answer's prompt may begin as.
        self._opened = ExitStack()
        self._session: Session | None = None
        self._overlapped: OverlappedPrefill | None = None
        self._before_answer: Session | None = None

    def work(self) -> Work[Result]:
        """The question as a work of `edgereason.decoding.continuous_batching`: its texts, and in the end its result.

        Raises:
            UsageError: the question is empty.
            ContextError: the question is longer than a stage's context.
        """
        started = time.perf_counter()
        check_question(self._question)
        self._question = self._question.strip()
        with self._opened:
            if self._options.guidance is True:
                yield from self._write_guidance()
            if self._options.answer:
                yield from self._write_answer()
        self._timings.total_s = time.perf_counter() - started
        if self._emit is not None:
            self._runtime.sessions.save()
        return self._result()

    def _write_guidance(self) -> Generator[Generating, None, None]:
        started, timings = time.perf_counter(), self._timings.guidance
        request = self._runtime.request(
            "guidance", self._stages["guidance"], self._question, None, timings, started, self._confidence
        )
        self._guidance = (yield from self._write(request)).strip()
        self._guidance_ended = started + timings.ttft_s + timings.decode_s
        if self._overlapped is not None:
            self._before_answer = self._overlapped.reader
        elif self._runtime.optimizations.shared_question:
            self._before_answer = self._session

    def _write_answer(self) -> Generator[Generating, None, None]:
        started, timings, stage = time.perf_counter(), self._timings.answer, self._stages["answer"]
        guidance = self._guidance or None
        if self._runtime.remote is not None:
            messages = stage.prompt.messages(self._question, guidance)
            pieces = self._runtime.remote.write(messages, stage.max_new_tokens, stage.sampling, stage.stop_strings)
            answer = _RemoteText(self._runtime.remote, pieces, timings, started, self._show("answer"))
            with closing(answer):
                yield answer
            self._answer = answer.text
        else:
            request = self._runtime.request("answer", stage, self._question, guidance, timings, started)
            self._notices += request.notices
            self._answer = yield from self._write(request)
        if self._guidance_ended is not None:
            self._timings.handover_s = started + timings.ttft_s - self._guidance_ended

    def _write(self, request: StageRequest) -> Generator[Generating, None, str]:
        """Generate a stage's text."""
        text = self._runtime.generation(request, partial(self._open, request), self._show(request.name))
        if self._emit is None:
            with closing(text):
                yield text
            return text.text
        yield text
        if self._session is not None:
            self._runtime.sessions.keep(request.name, self._session)
        return text.text

    def _open(self, request: StageRequest) -> Session:
        """The session of a stage's text; where it streams, the answer's prompt is prefilled beside the guidance."""
        name, prompt, sessions = request.name, request.decode.prompt, self._runtime.sessions
        if self._stems is not None:
            return self._stems[name].session(partial(sessions.open, name), prompt, request.capacity)
        session = sessions.open(name, prompt, request.capacity, self._before_answer)
        if self._emit is None:
            return session
        self._session = session
        self._opened.callback(session.close)
        if name == "guidance" and self._options.answer:
            self._overlapped = sessions.overlap(session, self._question, self._stages)
        if name == "guidance" and self._overlapped is not None:
            self._opened.callback(self._overlapped.close)
            return self._overlapped
        return session

    def _show(self, stage: StageName) -> Callable[[str], None] | None:
        """What takes a stage's text as it comes."""
        emit = self._emit
        if emit is None:
            return None

        def show(piece: str) -> None:
            if stage == "guidance" and self._overlapped is not None:
                self._overlapped.hear(piece)
            emit(Event(stage, piece))

        return show

    def _result(self) -> Result:
        """What both texts come to; the confidence is the guidance model's, None where it wrote none."""
        confidence = self._confidence.value
        least = self._runtime.bundle.stages["guidance"].prompt.min_confidence
        return Result(
            question=self._question,
            guidance=self._guidance,
            answer=self._answer.strip(),
            final=final_result(self._answer),
            engine=self._runtime.answer_engine,
            bundle=str(self._runtime.bundle.path),
            timings=self._timings,
            notices=self._notices,
            confidence=confidence,
            in_domain=None if confidence is None or least is None else confidence >= least,
        )


class _RemoteText:
    """A server's text, piece by piece; each counts as a token."""

    def __init__(
        self,
        place: object,
        pieces: Iterator[str],
        timings: StageTimings,
        started: float,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self.place = place
        self.text = ""
        self.done = False
        self._pieces = pieces
        self._timings = timings
        self._started = started
        self._on_text = on_text

    def advance(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            self.done = True
            return
        now, timings = time.perf_counter() - self._started, self._timings
        timings.ttft_s = timings.ttft_s or now
        timings.prefill_s = timings.ttft_s
        timings.decode_s = now - timings.ttft_s
        timings.new_tokens += 1
        self.text += piece
        if self._on_text is not None:
            self._on_text(piece)

    def close(self) -> None:
        """End the connection."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()
