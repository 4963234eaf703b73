"""A process reward model: a score for every step of an answer, learned from simulated continuations.

Math-Shepherd's verifier with soft labels (arXiv 2312.08935), which Self-Iterative Process Feedback trains of the small
model itself (arXiv 2412.08393): the model that writes the answers gets a linear head on its last hidden state, and LoRA
factors of its own. At the last token of each step it says how probable a right result is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from edgereason.training.chat_tokens import Chat
from edgereason.training.distributed import processes
from edgereason.training.lora_settings import ALL_LINEAR, LoraSettings
from edgereason.training.recipes.step_labels import LabelledAnswer, steps
from edgereason.training.run_directory import last_whole_checkpoint
from edgereason.training.sampling.attempts import Attempt, TrainingQuestion
from edgereason.training.trainer import Schedule, arguments, fit, keep_history, seeded
from edgereason.training.training_base import TrainingBase

_UNLABELLED = -1.0


class StepScorer(nn.Module):
    """A decoder with a head that scores places of a text.

    Args:
        decoder: Gives hidden states `[B, T, width]` as `last_hidden_state`.
        width: Of its hidden states.
    """

    def __init__(self, decoder: nn.Module, width: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.score = nn.Linear(width, 1)
        # Begins at an even chance for every step.
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits `[B, T]` float32 of a right result after each token; input_ids, attention_mask: `[B, T]` int64."""
        hidden = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        logits: Tensor = self.score(hidden.to(self.score.weight.dtype)).squeeze(-1)
        return logits.float()


@dataclass(frozen=True)
class StepTokens:
    """An answer behind its prompt: token ids, and where among them each step ends."""

    ids: list[int]
    ends: list[int]


def step_tokens(chat: Chat, prompt: str, text: str) -> StepTokens:
    """A rendered prompt and an answer, split into tokens step by step."""
    ids, ends = chat.tokenizer.encode(prompt), []
    for step in steps(text):
        ids += chat.tokenizer.encode(step)
        ends.append(len(ids) - 1)
    return StepTokens(ids, ends)


@dataclass(frozen=True)
class ProcessReward:
    """A process reward model, ready to score.

    Attributes:
        model: A `StepScorer` with its adapter.
        chat: The base's.
        batch_size: Answers per forward pass.
    """

    model: nn.Module
    chat: Chat
    batch_size: int

    def score(self, questions: Sequence[TrainingQuestion], attempts: Sequence[Attempt]) -> list[Attempt]:
        """Attempts with their scores: that of their worst step; 0 for one without text.

        Under `accelerate launch` every process scores its share, and all return all.
        """
        state = processes()
        own = list(range(len(attempts)))[state.process_index :: state.num_processes]
        scores: dict[int, float] = {}
        for start in range(0, len(own), self.batch_size):
            numbers = own[start : start + self.batch_size]
            found = self.step_scores(
                [(questions[attempts[number].question].prompt, attempts[number].text) for number in numbers]
            )
            scores.update({number: min(each, default=0.0) for number, each in zip(numbers, found, strict=True)})
        gathered = dict(gather_object(list(scores.items())))
        return [replace(each, score=gathered[number]) for number, each in enumerate(attempts)]

    @torch.no_grad()
    def step_scores(self, answers: Sequence[tuple[str, str]]) -> list[list[float]]:
        """For each prompt and answer the probability of a right result after each step."""
        tokens = [step_tokens(self.chat, prompt, text) for prompt, text in answers]
        device = next(self.model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in _padded([each.ids for each in tokens]).items()}
        chances = torch.sigmoid(self.model.eval()(**inputs)).cpu()  # [B, T]
        return [chances[row, each.ends].tolist() for row, each in enumerate(tokens)]


def train_process_reward(
    labelled: Sequence[LabelledAnswer],
    chat: Chat,
    base: TrainingBase,
    adapter: Path,
    schedule: Schedule,
    lora: LoraSettings,
    work: Path,
) -> ProcessReward:
    """Train a process reward model of a base and its adapter, from the last checkpoint in `work` where there is one.

    Args:
        labelled: Answers with a label for each step.
        chat: The base's.
        adapter: The answer adapter that the model begins as.
        lora: What is trained, besides the head.
        work: Checkpoints lie here; gets `trainer_state.json` and `loss.png`.

    Raises:
        UsageError: the loss diverged.
    """
    checkpoints = work / "checkpoints"
    seeded(schedule.seed)
    trainer = _RewardTrainer(
        step_scorer(base, adapter, lora, schedule.gradient_checkpointing),
        TrainingArguments(
            # The module is not transformers' own: `step_scorer` sees to checkpointing, and names its inputs.
            **{**arguments(schedule, base, checkpoints), "gradient_checkpointing": False},
            remove_unused_columns=False,
        ),
        train_dataset=_Labelled(labelled, chat),
        data_collator=_collate,
    )
    fit(trainer, "process reward", last_whole_checkpoint(checkpoints))
    if trainer.is_world_process_zero():
        keep_history(trainer, work, "process reward")
    return ProcessReward(trainer.accelerator.unwrap_model(trainer.model), chat, schedule.batch_size)


def step_scorer(
    base: TrainingBase, adapter: Path, lora: LoraSettings, gradient_checkpointing: bool = False
) -> PeftModel:
    """A `StepScorer` of a base with an answer adapter merged into it, under new LoRA factors."""
    causal = PeftModel.from_pretrained(base.load(), str(adapter)).merge_and_unload()
    if gradient_checkpointing:
        causal.gradient_checkpointing_enable()
        causal.enable_input_require_grads()
    decoder = getattr(causal, causal.base_model_prefix)
    targets = _linear_layers(decoder) if lora.targets == (ALL_LINEAR,) else list(lora.targets)
    config = lora.config(target_modules=targets, modules_to_save=["score"], task_type=None)
    return get_peft_model(StepScorer(decoder, causal.config.hidden_size), config)


def _linear_layers(decoder: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers."""
    return sorted({name.rpartition(".")[2] for name, each in decoder.named_modules() if isinstance(each, nn.Linear)})


class _RewardTrainer(Trainer):  # type: ignore[misc]
    """Binary cross-entropy against the labels, over the steps' ends of a batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The loss is a mean over the batch, so that of several batches is the mean of theirs.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        labels = inputs.pop("labels")  # [B, T]
        logits = model(**inputs)  # [B, T]
        chosen = labels != _UNLABELLED
        return binary_cross_entropy_with_logits(logits[chosen], labels[chosen])


class _Labelled(Dataset[dict[str, Any]]):
    """Labelled answers as tokens."""

    def __init__(self, labelled: Sequence[LabelledAnswer], chat: Chat) -> None:
        self._rows = []
        for each in labelled:
            tokens = step_tokens(chat, each.prompt, each.text)
            labels = [_UNLABELLED] * len(tokens.ids)
            for end, label in zip(tokens.ends, each.labels, strict=True):
                labels[end] = label
            self._rows.append({"ids": tokens.ids, "labels": labels})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["ids"]) for row in rows)
    labels = [row["labels"] + [_UNLABELLED] * (longest - len(row["labels"])) for row in rows]
    return {**_padded([row["ids"] for row in rows]), "labels": torch.tensor(labels)}


def _padded(rows: Sequence[list[int]]) -> dict[str, Tensor]:
    """Token ids and attention mask, `[B, T]` int64, filled up on the right."""
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
    }
