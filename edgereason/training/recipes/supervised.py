"""Supervised fine-tuning of one stage: the loss is that of the completion, after the prompt that inference uses."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from edgereason.errors import EdgeReasonWarning, UsageError
from edgereason.files import file_sha256, write_json
from edgereason.text.prompts import Prompt, dated
from edgereason.training.chat_tokens import Chat, Tokens
from edgereason.training.lisa import LayerSampling, LisaSettings
from edgereason.training.lora_settings import LoraSettings, save_adapter
from edgereason.training.run_directory import Run, first_day, run_directory
from edgereason.training.trainer import Schedule, arguments, fit, keep, keep_history, quiet_libraries, seeded
from edgereason.training.training_base import TrainingBase
from edgereason.training.weight_difference import as_adapter


@dataclass(frozen=True)
class Sample:
    """One thing to learn: what the stage reads, and what it is to write."""

    question: str
    guidance: str | None
    completion: str
    line: int


def train_stage(
    name: str,
    prompt: Prompt,
    samples: Sequence[Sample],
    data: Path,
    base: TrainingBase,
    out: Path,
    schedule: Schedule,
    method: LoraSettings | LisaSettings,
    max_length: int | None = None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train an adapter on a stage's samples and write it to `out`.

    Args:
        name: The recipe's.
        prompt: The stage's; it is written beside the adapter.
        samples: Of the file `data`.
        method: LoRA's factors, or LISA's layers, of whose change an adapter is made.
        max_length: Samples longer than this many tokens are skipped; the base's context by default.

    Raises:
        UsageError: no sample is short enough, the loss diverged, or see `run_directory`.
        BundleError: the base has no chat template.
    """
    chat = Chat(base.path)
    prompt = dated(prompt, chat.tokenizer.template, first_day(out, resume))
    tokens = _within(encode(chat, prompt, samples), samples, _limit(base, max_length), data)
    settings = {
        "recipe": name,
        "base": base.to_json(),
        "data": file_sha256(data),
        "samples": _digest(tokens),
        **({} if prompt.date is None else {"prompt": prompt.to_json()}),
        "schedule": schedule.to_json(),
        "lora" if isinstance(method, LoraSettings) else "lisa": asdict(method),
    }
    with run_directory(out, settings, resume, force) as run, quiet_libraries():
        seeded(schedule.seed)
        if isinstance(method, LoraSettings):
            _train_lora(name, prompt, tokens, base, schedule, method, run)
        else:
            _train_lisa(name, prompt, tokens, base, schedule, method, run)


def _train_lora(
    name: str,
    prompt: Prompt,
    tokens: Sequence[Tokens],
    base: TrainingBase,
    schedule: Schedule,
    lora: LoraSettings,
    run: Run,
) -> None:
    config = SFTConfig(**arguments(schedule, base, run.checkpoints), max_length=None)
    trainer = SFTTrainer(
        base.load(),
        config,
        train_dataset=_dataset(tokens),
        processing_class=base.tokenizer(),
        peft_config=lora.config(),
    )
    fit(trainer, name, run.last_checkpoint())
    keep(trainer, prompt, base, run.result, name)


def _train_lisa(
    name: str,
    prompt: Prompt,
    tokens: Sequence[Tokens],
    base: TrainingBase,
    schedule: Schedule,
    lisa: LisaSettings,
    run: Run,
) -> None:
    # Updates of full weights are lost in bfloat16, whose neighbours are 0.4% apart; computing in it is another matter.
    model = base.load(torch.float32)
    layers = LayerSampling(model, lisa, schedule.seed)
    common = {**arguments(schedule, base, run.checkpoints), "ddp_find_unused_parameters": True}
    trainer = SFTTrainer(
        model,
        SFTConfig(**common, max_length=None),
        train_dataset=_dataset(tokens),
        processing_class=base.tokenizer(),
        callbacks=[layers],
    )
    fit(trainer, name, run.last_checkpoint())
    if trainer.is_world_process_zero():
        adapter, closeness = as_adapter(base.load(torch.float32), model, lisa.error)
        save_adapter(adapter, prompt, base.name, run.result)
        write_json(run.result / "difference.json", closeness.to_json())
        keep_history(trainer, run.result, name)


def _dataset(tokens: Sequence[Tokens]) -> Dataset:
    return Dataset.from_list([{"input_ids": each.ids, "labels": each.labels} for each in tokens])


def encode(chat: Chat, prompt: Prompt, samples: Sequence[Sample]) -> list[Tokens]:
    """The samples as tokens."""
    return [chat.tokens(prompt, each.question, each.guidance, each.completion) for each in samples]


def _limit(base: TrainingBase, max_length: int | None) -> int:
    context = base.context
    if max_length is not None and not 0 < max_length <= context:
        raise UsageError(f"max_length is {max_length}.", f"Give 1 to {context}, the base's context.")
    return max_length or context


def _within(tokens: Sequence[Tokens], samples: Sequence[Sample], limit: int, data: Path) -> list[Tokens]:
    """The samples of at most `limit` tokens: a cut answer would teach the model to stop anywhere."""
    kept = [each for each in tokens if len(each.ids) <= limit]
    if len(kept) == len(tokens):
        return kept
    first = next(sample.line for each, sample in zip(tokens, samples, strict=True) if len(each.ids) > limit)
    what = f"{len(tokens) - len(kept)} of {len(tokens)} samples have more than {limit} tokens, {data}:{first} first"
    if not kept:
        raise UsageError(f"{what}.", "Give shorter texts or a larger --max-length.")
    warnings.warn(f"{what}; they are skipped.", EdgeReasonWarning, stacklevel=3)
    return kept


def _digest(tokens: Sequence[Tokens]) -> str:
    """A sum over what is trained on, so that other prompts or another tokenizer are not taken for the same."""
    digest = hashlib.sha256()
    for each in tokens:
        digest.update(repr((each.prompt, each.ids)).encode())
    return digest.hexdigest()
