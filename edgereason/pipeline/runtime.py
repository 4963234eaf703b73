"""What answering runs on: both stages' models, their sessions, and what earlier texts have taught about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgereason import configuration
from edgereason.bundle import STAGES, Bundle, Stage
from edgereason.decoding.confidence import Confidence
from edgereason.decoding.continuous_batching import Generation
from edgereason.decoding.loop import DecodeRequest
from edgereason.decoding.prompt_lookup import Acceptance, PromptLookup
from edgereason.decoding.result_forcing import ResultForcing
from edgereason.decoding.timings import StageTimings
from edgereason.engines.base import Session
from edgereason.language_model import LanguageModel, open_stage
from edgereason.pipeline.external_models import open_answer_model
from edgereason.pipeline.prompting import fit_prompt
from edgereason.pipeline.results import StageName
from edgereason.prefill.optimizations import Optimizations
from edgereason.prefill.sessions import StageSessions

if TYPE_CHECKING:
    from edgereason.pipeline.remote import RemoteModel

LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True)
class StageRequest:
    """A stage's text that is about to be generated.

    Attributes:
        name: The stage.
        decode: What to decode, and how.
        notices: What had to be done to make the prompt fit, as sentences.
    """

    name: StageName
    decode: DecodeRequest
    notices: tuple[str, ...]

    @property
    def capacity(self) -> int:
        """Maximum tokens that its session has to hold."""
        return len(self.decode.prompt) + self.decode.max_new_tokens


class Runtime:
    """The models and sessions of one loaded bundle. Safe to use from several threads.

    Args:
        bundle: Opened and checked.
        engine, threads, optimizations, answer_model, gpu_layers: See `edgereason.load`.

    Attributes:
        bundle: What was loaded; with an answer model from elsewhere, its answer stage is that model's.
        optimizations: What makes two stages cost less than two models.
        models: The two stages' models, `guidance` and `answer`; the latter is missing where a server answers.
        remote: The server that answers, if one does.
        sessions: Opens the stages' sessions, begun with what is cached of their prompts.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str,
        threads: int | None,
        optimizations: Optimizations,
        answer_model: str | Path | None,
        gpu_layers: int | None,
    ) -> None:
        self.bundle = bundle
        self.optimizations = optimizations
        self.models: dict[str, LanguageModel] = {}
        self.remote: RemoteModel | None = None
        threads = configuration.threads(threads)
        try:
            if answer_model is None:
                for stage in STAGES:
                    base = next((model.engine for model in self.models.values()), None)
                    self.models[stage] = open_stage(bundle, stage, engine, threads, gpu_layers, base)
            else:
                # Layers on a GPU are llama.cpp's, whichever of the two models it runs.
                own = gpu_layers if bundle.engine == LLAMA_CPP else None
                self.models["guidance"] = open_stage(bundle, "guidance", engine, threads, own)
                self._take_answer_model(answer_model, threads, gpu_layers, needed=own is None)
        except BaseException:
            for model in self.models.values():
                model.close()
            raise
        self._acceptance = {stage: Acceptance() for stage in self.models}
        foreign = frozenset[str]() if answer_model is None else frozenset({"answer"})
        self.sessions = StageSessions(self.bundle, self.models, optimizations, foreign)

    def _take_answer_model(self, source: str | Path, threads: int | None, gpu_layers: int | None, needed: bool) -> None:
        model, stage = open_answer_model(source, threads, gpu_layers, needed)
        # Another model's stage has nothing in common with the guidance's.
        self.bundle = replace(self.bundle, layout="merged", stages={**self.bundle.stages, "answer": stage})
        if isinstance(model, LanguageModel):
            self.models["answer"] = model
        else:
            self.remote = model

    @property
    def answer_engine(self) -> str:
        """The name of what computes the answers."""
        return self.remote.name if self.remote else self.models["answer"].engine.name

    def request(
        self,
        name: StageName,
        stage: Stage,
        question: str,
        guidance: str | None,
        timings: StageTimings,
        started: float,
        confidence: Confidence | None = None,
    ) -> StageRequest:
        """Render a stage's prompt and say how its text is decoded.

        Args:
            name: The stage.
            stage: Its prompt, sampling and limits.
            question: The question.
            guidance: What the answer's prompt shows; None for none.
            timings: Filled in as tokens come.
            started: When the stage began (`time.perf_counter`).
            confidence: Hears of every sampled token.

        Raises:
            ContextError: the prompt fills the model's context.
        """
        model = self.models[name]
        prompt = fit_prompt(name, model, stage, question, guidance)
        lookup = forcing = None
        if self.optimizations.speculation:
            lookup = PromptLookup(prompt.ids, model.engine.token_cost, self._acceptance[name])
        if name == "answer" and stage.prompt.calculator:
            forcing = ResultForcing(model.tokenizer)
        decode = DecodeRequest(
            prompt=prompt.ids,
            max_new_tokens=prompt.max_new_tokens,
            sampling=stage.sampling,
            stop_ids=stage.stop_ids,
            stop_strings=stage.stop_strings,
            lookup=lookup,
            forcing=forcing,
            confidence=confidence,
            timings=timings,
            started=started,
        )
        return StageRequest(name, decode, prompt.notices)

    def generation(
        self,
        request: StageRequest,
        open_session: Callable[[], Session],
        on_text: Callable[[str], object] | None = None,
    ) -> Generation:
        """A stage's text, not yet begun.

        Args:
            request: What to generate.
            open_session: Opens its session, when there is room for it.
            on_text: Called with every piece of text.
        """
        model = self.models[request.name]
        return Generation(model.engine, open_session, request.decode, model.tokenizer.stream(), on_text)

    def close(self) -> None:
        """Free the models' memory. Closing twice is allowed."""
        self.sessions.close()
        for model in self.models.values():
            model.close()
        self.models = {}
