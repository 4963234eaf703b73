"""Answer models from elsewhere: guidance serves any model that can read it (arXiv 2412.09906)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgereason.bundle import MANIFEST, Bundle, Stage
from edgereason.engines import open_engine
from edgereason.errors import UsageError
from edgereason.language_model import LanguageModel, open_stage
from edgereason.text.prompts import ANSWER

if TYPE_CHECKING:
    from edgereason.pipeline.remote import RemoteModel

_MAX_NEW_TOKENS = 512
"""For an answer model that comes without a limit of its own."""


def open_answer_model(
    source: str | Path, threads: int | None = None, gpu_layers: int | None = None, needed: bool = True
) -> tuple[LanguageModel | RemoteModel, Stage]:
    """Open a model that answers in place of a bundle's own.

    Args:
        source: A bundle, whose answer stage is taken; a GGUF file, which has a tokenizer and a chat template inside; or
            the address of a server that speaks OpenAI's chat completions, `http://localhost:8080`.
        threads: Threads to compute with; None lets the engine choose.
        gpu_layers: How many layers llama.cpp computes on a GPU; None: all that its build can.
        needed: Whether `gpu_layers` is a mistake where this model is not llama.cpp's.

    Returns:
        The model, and its prompt and limits.

    Raises:
        UsageError: it is none of these, or `gpu_layers` is of no use to it.
        BundleError, EngineError: it cannot be opened.
    """
    if str(source).startswith(("http://", "https://")):
        if gpu_layers is not None and needed:
            raise UsageError(f"gpu-layers is {gpu_layers}, but a server answers.", "Leave --gpu-layers out.")
        from edgereason.pipeline.remote import (
            RemoteModel,  # and with it the network's modules, which nothing else needs
        )

        return RemoteModel(str(source)), Stage(ANSWER, frozenset(), _MAX_NEW_TOKENS)
    path = Path(source)
    if (path / MANIFEST).is_file():
        bundle = Bundle.open(path)
        layers = gpu_layers if needed or bundle.format == "gguf" else None
        return open_stage(bundle, "answer", "auto", threads, layers), bundle.stages["answer"]
    if path.suffix == ".gguf" and path.is_file():
        model = LanguageModel(open_engine(path, "auto", threads, gpu_layers), path.parent / path.stem)
        return model, Stage(ANSWER, model.stop_ids, _MAX_NEW_TOKENS)
    raise UsageError(
        f"{source} is no answer model.", "Give a bundle, a .gguf file, or an address such as http://localhost:8080."
    )
