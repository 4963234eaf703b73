"""A single model: an engine with its tokenizer, for people who embed one without the two stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgereason import configuration
from edgereason.bundle import BASE, Bundle, Sampling
from edgereason.decoding.loop import DecodeRequest, decode_ids
from edgereason.engines import has_adapter, open_engine
from edgereason.engines.base import Engine, Logits, Session, Tokenizing
from edgereason.errors import BundleError, UsageError
from edgereason.text.tokenizer import TextTokenizer, Tokenizer


class LanguageModel:
    """A loaded model. Safe to use from several threads; a context manager.

    Attributes:
        engine: The engine that computes.
        adapter: Index of the engine's adapter that the model is made of; None for the engine's own weights.
        stop_ids: Tokens that end generation.
    """

    def __init__(self, engine: Engine, directory: Path, adapter: int | None = None) -> None:
        self.engine = engine
        self.adapter = adapter
        self._directory = directory
        self._tokenizer: TextTokenizer | None = None
        if (directory / "tokenizer.json").is_file():
            self._tokenizer = Tokenizer(directory)
        elif isinstance(engine, Tokenizing):
            self._tokenizer = engine.tokenizer()
        self.stop_ids: frozenset[int] = self._tokenizer.stop_ids() if self._tokenizer else frozenset()

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer that lies beside the model, or inside its GGUF file.

        Raises:
            BundleError: there is none.
        """
        if self._tokenizer is None:
            raise BundleError(f"{self._directory} has no tokenizer.json.", "Copy the model's tokenizer files there.")
        return self._tokenizer

    def session(self, capacity: int | None = None) -> Session:
        """Start an empty sequence of this model; see `edgereason.engines.base.Engine`."""
        return self.engine.session(capacity, self.adapter)

    def logits(self, ids: Sequence[int]) -> Logits:
        """The logits after each of `ids`.

        Args:
            ids: Token ids, at least one.

        Returns:
            float32 `[len(ids), vocab]`; row i is the distribution of the token that follows `ids[: i + 1]`.

        Raises:
            UsageError: `ids` is empty or has an id outside of the vocabulary.
            ContextError: `ids` is longer than the model's context.
        """
        self._check(ids)
        session = self.session(len(ids))
        try:
            return session.advance(ids, every=True)
        finally:
            session.close()

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop_ids: frozenset[int] | None = None,
    ) -> Iterator[int]:
        """Yield the token ids that follow `ids`, up to `max_new_tokens` of them, without the stop token.

        The sampling arguments are those of `edgereason.Sampling`; `stop_ids` replaces the model's own.

        Raises:
            UsageError: `ids` is empty or out of the vocabulary, or an argument is out of its range.
            ContextError: `ids` and the new tokens do not fit into the model's context.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        self._check(ids)
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}.", "Give 1 or more.")
        return self._generate(
            DecodeRequest(list(ids), max_new_tokens, sampling, self.stop_ids if stop_ids is None else stop_ids)
        )

    def _generate(self, request: DecodeRequest) -> Iterator[int]:
        session = self.session(min(len(request.prompt) + request.max_new_tokens, self.engine.context_length))
        try:
            yield from decode_ids(session, request)
        finally:
            session.close()

    def _check(self, ids: Sequence[int]) -> None:
        if len(ids) == 0:
            raise UsageError("ids is empty.", "Give at least one token id.")
        span = np.asarray(ids)
        if span.min() < 0 or span.max() >= self.engine.vocab_size:
            raise UsageError(
                f"ids has an id outside of the vocabulary of {self.engine.vocab_size}.",
                "Encode the text with this model's own tokenizer.",
            )

    def close(self) -> None:
        """Give the model's memory back."""
        self.engine.close()

    def __enter__(self) -> LanguageModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_model(path: str | Path, engine: str = "auto", threads: int | None = None) -> LanguageModel:
    """Load a single model.

    Args:
        path: A stage's directory inside a bundle, a Hugging Face directory, or a `.gguf`, `.onnx` or `.safetensors`
            file. Of a bundle whose stages share a base, the stage's adapter on that base.
        engine: `native`, `llama.cpp`, `onnx`, or `auto` for the one that runs these files.
        threads: Threads to compute with; None for the user's configuration, or else what the engine chooses.

    Raises:
        BundleError: the files are missing or broken.
        EngineError: the engine is not installed or does not run on this machine.
        UsageError: `engine` or `threads` cannot be used.
    """
    path, threads = Path(path), configuration.threads(threads)
    if not path.is_dir():
        return LanguageModel(open_engine(path, engine, threads), path.parent)
    if not has_adapter(path) or not (path.parent / BASE).is_dir():
        return LanguageModel(open_engine(path, engine, threads), path)
    return _with_adapter(open_engine(path.parent / BASE, engine, threads), path)


def open_stage(
    bundle: Bundle,
    stage: str,
    engine: str = "auto",
    threads: int | None = None,
    gpu_layers: int | None = None,
    base: Engine | None = None,
) -> LanguageModel:
    """The model of one stage of a bundle.

    Args:
        bundle: An opened bundle.
        stage: `guidance` or `answer`.
        engine, threads, gpu_layers: As `edgereason.engines.open_engine` takes them.
        base: The engine of the base that both stages share, where it is open already.

    Raises:
        BundleError, EngineError, UsageError: see `edgereason.engines.open_engine`.
    """
    directory = bundle.path / stage
    if not bundle.shared:
        return LanguageModel(open_engine(directory, engine, threads, gpu_layers), directory)
    return _with_adapter(base or open_engine(bundle.model(stage), engine, threads, gpu_layers), directory)


def _with_adapter(base: Engine, directory: Path) -> LanguageModel:
    return LanguageModel(base, directory, base.load_adapter(directory))
