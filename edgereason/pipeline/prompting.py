"""A stage's prompt as token ids that fit the model's context."""

from __future__ import annotations

from dataclasses import dataclass

from edgereason.bundle import Stage
from edgereason.errors import ContextError, UsageError
from edgereason.language_model import LanguageModel
from edgereason.text.control_tokens import mark_all
from edgereason.text.prompts import prompt_text

_LEAST_ANSWER = 64
"""Tokens of room for the answer below which guidance is shortened."""


@dataclass(frozen=True)
class FittedPrompt:
    """A stage's prompt as token ids, the maximum of new tokens after it, and what had to be done to make it fit."""

    ids: list[int]
    max_new_tokens: int
    notices: tuple[str, ...] = ()


def fit_prompt(name: str, model: LanguageModel, stage: Stage, question: str, guidance: str | None) -> FittedPrompt:
    """Render a stage's prompt, with room for as many new tokens as the stage may write or the context holds.

    Guidance that leaves less room than a short answer needs is cut at its end; the question never is.

    Raises:
        ContextError: the prompt fills the model's context.
        UsageError: it has a token that the model does not know, such as that of an image.
    """
    least, context = min(_LEAST_ANSWER, stage.max_new_tokens), model.engine.context_length
    notices: tuple[str, ...] = ()
    ids = _rendered(model, stage, question, guidance)
    if guidance is not None and len(ids) + least > context:
        tokens = model.tokenizer.encode(mark_all(guidance, model.tokenizer.control))
        kept = len(tokens)
        while kept and len(ids) + least > context:
            kept = max(0, kept - (len(ids) + least - context))
            ids = _rendered(model, stage, question, model.tokenizer.decode(tokens[:kept]))
        notices = (f"The guidance was shortened from {len(tokens)} to {kept} tokens to fit the context.",)
    if len(ids) >= context:
        raise ContextError(
            f"The question comes to {len(ids):,} tokens, {len(ids) + 1 - context:,} too many for the {name} model's "
            f"context of {context:,}.",
            "Shorten the question, or use a model with a longer context.",
        )
    if (last := max(ids)) >= (known := model.engine.vocab_size):
        raise UsageError(
            f"The {name} model's prompt has the token {last}, and the model has embeddings for {known} tokens.",
            "Its prompt or chat template has a token that a text model lacks, such as one for images: leave it out.",
        )
    return FittedPrompt(ids, min(stage.max_new_tokens, context - len(ids)), notices)


def _rendered(model: LanguageModel, stage: Stage, question: str, guidance: str | None) -> list[int]:
    return model.tokenizer.encode(prompt_text(model.tokenizer, stage.prompt, question, guidance))
