"""A loaded bundle that answers questions: `load`, `ask`, `stream`, `batch`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from edgereason.bundle import DEFAULT_BUNDLE, Bundle
from edgereason.decoding.continuous_batching import DEFAULT_BATCH_SIZE
from edgereason.errors import UsageError
from edgereason.language_model import LanguageModel
from edgereason.pipeline.batch import Outcomes, answer_all
from edgereason.pipeline.events import in_time, streamed, voted
from edgereason.pipeline.options import AskKeywords, AskOptions
from edgereason.pipeline.results import Event, Result
from edgereason.pipeline.runtime import Runtime
from edgereason.pipeline.two_stages import check_question
from edgereason.prefill.optimizations import ALL, Optimizations

if TYPE_CHECKING:
    from edgereason.pipeline.remote import RemoteModel


class Reasoner:
    """A loaded bundle that answers questions. Safe to use from several threads; a context manager.

    Args:
        bundle: Opened and checked.
        engine, threads, optimizations, answer_model, gpu_layers: See `load`.
        started: When loading began (`time.perf_counter`); now by default.

    Attributes:
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
        started: float | None = None,
    ) -> None:
        started = time.perf_counter() if started is None else started
        self._runtime = Runtime(bundle, engine, threads, optimizations, answer_model, gpu_layers)
        self.load_s = time.perf_counter() - started

    @property
    def bundle(self) -> Bundle:
        """What was loaded; with an answer model from elsewhere, its answer stage is that model's."""
        return self._runtime.bundle

    @property
    def models(self) -> dict[str, LanguageModel]:
        """The two stages' models, `guidance` and `answer`; the latter is missing where a server answers."""
        return self._runtime.models

    @property
    def optimizations(self) -> Optimizations:
        """What makes two stages cost less than two models."""
        return self._runtime.optimizations

    @property
    def remote(self) -> RemoteModel | None:
        """The server that answers, if one does."""
        return self._runtime.remote

    def ask(
        self, question: str, *, on_event: Callable[[Event], object] | None = None, **options: Unpack[AskKeywords]
    ) -> Result:
        """Answer a question.

        Args:
            question: The question, in words.
            on_event: Called with each piece of text as it is written, and at the end with the result.
            options: See `edgereason.pipeline.options.AskOptions`.

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

    def stream(self, question: str, **options: Unpack[AskKeywords]) -> Iterator[Event]:
        """Like `ask`, as events: pieces of guidance, pieces of answer, and last the result.

        Of several samples the majority's guidance and answer come in one piece each, when all are written. Closing the
        iterator early stops the work and frees its memory.
        """
        check_question(question)
        asked = AskOptions(**options)
        if asked.calculator and self.remote is not None:
            raise UsageError("A server writes its answer itself, without our calculator.", "Leave --calculator out.")
        if asked.samples != 1:
            return voted(answer_all(self._runtime, [question], DEFAULT_BATCH_SIZE, asked, self.load_s))
        events = streamed(self._runtime, question, asked, asked.stages(self.bundle.stages), self.load_s)
        return events if asked.timeout is None else in_time(events, asked.timeout)

    async def aask(self, question: str, **options: Unpack[AskKeywords]) -> Result:
        """`ask` for asyncio; cancelling the task stops the work."""
        from edgereason.pipeline.asynchronous import last_result  # asyncio would cost every program's start

        return await last_result(self.astream(question, **options))

    def astream(self, question: str, **options: Unpack[AskKeywords]) -> AsyncGenerator[Event, None]:
        """`stream` for asyncio; closing the generator or cancelling the task stops the work."""
        from edgereason.pipeline.asynchronous import events

        return events(self.stream(question, **options))

    def batch(
        self, questions: Iterable[str], *, batch_size: int = DEFAULT_BATCH_SIZE, **options: Unpack[AskKeywords]
    ) -> Outcomes:
        """Answer many questions, several per forward pass where the engine can batch.

        Args:
            questions: Taken one by one, as there is room for them.
            batch_size: Maximum sequences per forward pass. Each has a KV cache of its own.
            options: As for `ask`, without a timeout; each question's result is that of `ask`.

        Returns:
            An outcome for each question, in their order: its result, or the error that ended it alone. `cancel(number)`
            gives up one question; closing the iterator stops the work and frees its memory.

        Raises:
            UsageError: an option is out of its range.
        """
        return answer_all(self._runtime, questions, batch_size, AskOptions(**options), self.load_s)

    def close(self) -> None:
        """Free the models' memory. Closing twice is allowed."""
        self._runtime.close()

    def __enter__(self) -> Reasoner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        threads: Threads to compute with; None for the user's configuration, or else what the engine chooses.
        optimizations: What makes two stages cost less than two models; all that the engine and the bundle allow.
        answer_model: A model that answers in place of the bundle's own: another bundle, a GGUF file, or the address of
            a server that speaks OpenAI's chat completions.
        gpu_layers: How many layers llama.cpp computes on a GPU, of the models that it runs; None: all that its build
            can.
        layout: Which bundle to take, `merged` or `shared`; None takes the one that there is.

    Raises:
        BundleError: the bundle is missing, damaged, or of an unknown kind.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: `engine`, `threads`, `gpu_layers` or `layout` cannot be used.
    """
    started = time.perf_counter()
    opened = Bundle.find(Path(bundle) if bundle is not None else DEFAULT_BUNDLE, layout)
    return Reasoner(opened, engine, threads, optimizations, answer_model, gpu_layers, started)
