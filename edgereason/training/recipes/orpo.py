"""Odds Ratio Preference Optimization (ORPO, arXiv 2403.07691): likelihood and preference at once."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from edgereason.publishing import publish
from edgereason.text.prompts import Prompt
from edgereason.training.chat_tokens import Chat
from edgereason.training.distributed import processes
from edgereason.training.recipes.preference_pairs import Pair
from edgereason.training.recipes.preferences import dataset, rendered_tokenizer, trainable
from edgereason.training.run_directory import last_whole_checkpoint
from edgereason.training.sampling.attempts import TrainingQuestion
from edgereason.training.trainer import Schedule, arguments, fit, keep, seeded
from edgereason.training.training_base import TrainingBase

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # TRL says that what is experimental in it may change
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer


class OrpoTrainer(ORPOTrainer):  # type: ignore[misc]
    """TRL's, with the paper's likelihood: that of the answer (equation 6), where TRL takes the prompt's as well.

    A stage's adapter has never learned to write its prompt; doing so would outweigh everything else.
    """

    def concatenated_forward(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Any, ...]:
        chosen, rejected, chosen_logits, rejected_logits, _, *rest = super().concatenated_forward(model, batch)
        return chosen, rejected, chosen_logits, rejected_logits, -chosen.mean(), *rest


def prefer(
    questions: Sequence[TrainingQuestion],
    pairs: Sequence[Pair],
    chat: Chat,
    prompt: Prompt,
    base: TrainingBase,
    adapter: Path,
    schedule: Schedule,
    beta: float,
    work: Path,
    title: str,
) -> Path:
    """Train an adapter on, on preference pairs, from the last checkpoint in `work` where there is one.

    Args:
        questions: What `Pair.question` counts.
        adapter: Where training begins; it stays as it is.
        beta: The weight of the odds ratio beside the likelihood (the paper's lambda).
        work: Checkpoints lie here.
        title: What the progress bar says.

    Returns:
        The new adapter's directory, `work/adapter`; one that is there already stays as it is.

    Raises:
        UsageError: the loss diverged.
    """
    out, unfinished, checkpoints = work / "adapter", work / "adapter.partial", work / "checkpoints"
    state = processes()
    state.wait_for_everyone()
    if out.is_dir():
        return out
    seeded(schedule.seed)
    model = trainable(base, adapter)
    trainer = OrpoTrainer(
        model,
        args=ORPOConfig(
            **arguments(schedule, base, checkpoints),
            beta=beta,
            max_length=base.context,
            remove_unused_columns=False,
        ),
        train_dataset=dataset(questions, pairs),
        processing_class=rendered_tokenizer(base, chat),
    )
    fit(trainer, title, last_whole_checkpoint(checkpoints))
    if state.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        keep(trainer, prompt, base, unfinished, title)
        publish(unfinished, out)
    state.wait_for_everyone()
    return out
