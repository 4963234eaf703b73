"""Answer models from elsewhere: a guidance serves any model that can read it (arXiv 2412.09906)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgereason.bundle import MANIFEST, Bundle, Stage
from edgereason.engines import open_engine
from edgereason.errors import UsageError
from edgereason.language_model import LanguageModel
from edgereason.text.prompts import ANSWER

if TYPE_CHECKING:
    from edgereason.pipeline.remote import RemoteModel

_MOST_TOKENS = 512
"""Of an answer whose model comes without a limit of its own."""


def open_answer_model(
    source: str | Path, threads: int | None = None, gpu_layers: int | None = None
) -> tuple[LanguageModel | RemoteModel, Stage]:
    """Open a model that answers in place of a bundle's own.

    Args:
        source: A bundle, whose answer stage is taken; a GGUF file, which has a tokenizer and a chat template inside; or
            the address of a server that speaks OpenAI's chat completions, `http://localhost:8080`.
        threads, gpu_layers: See `load`.

    Returns:
        The model, and its prompt and limits.

    Raises:
        UsageError: it is none of these.
        BundleError, EngineError: it cannot be opened.
    """
    if str(source).startswith(("http://", "https://")):
        from edgereason.pipeline.remote import (
            RemoteModel,  # and with it the network's modules, which nothing else needs
        )

        return RemoteModel(str(source)), Stage(ANSWER, frozenset(), _MOST_TOKENS)
    path = Path(source)
    if (path / MANIFEST).is_file():
        bundle = Bundle.open(path)
        return open_stage(bundle, "answer", "auto", threads, gpu_layers), bundle.stages["answer"]
    if path.suffix == ".gguf" and path.is_file():
        model = LanguageModel(open_engine(path, "auto", threads, gpu_layers), path.parent / path.stem)
        return model, Stage(ANSWER, model.stop_ids, _MOST_TOKENS)
    raise UsageError(
        f"{source} is no answer model.", "Give a bundle, a .gguf file, or an address such as http://localhost:8080."
    )


def open_stage(
    bundle: Bundle, stage: str, engine: str, threads: int | None, gpu_layers: int | None = None
) -> LanguageModel:
    """The model of one stage of a bundle, on an engine of its own."""
    directory = bundle.path / stage
    if not bundle.shared:
        return LanguageModel(open_engine(directory, engine, threads, gpu_layers), directory)
    opened = open_engine(bundle.model(stage), engine, threads, gpu_layers)
    return LanguageModel(opened, directory, opened.load_adapter(directory))
