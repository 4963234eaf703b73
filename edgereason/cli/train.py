"""`edgereason train`: a command for each recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from edgereason.cli.display.training_outcome import training
from edgereason.cli.parameters.training_options import (
    Adapter,
    Alpha,
    Base,
    BatchSize,
    Data,
    Dropout,
    Dtype,
    Epochs,
    Force,
    GradientAccumulation,
    GradientCheckpointing,
    LearningRate,
    LisaError,
    LisaFlag,
    LisaLayers,
    LisaPeriod,
    MaxLength,
    MaxNewTokens,
    Out,
    Pairs,
    Rank,
    Resume,
    Revision,
    Samples,
    SaveEvery,
    Seed,
    Steps,
    Target,
    Temperature,
    TopP,
)

if TYPE_CHECKING:
    from edgereason.training.trainer import Schedule

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Train the adapter of a stage on your own base model."
)


@app.command("guidance")
def guidance(
    data: Data,
    base: Base,
    out: Out,
    revision: Revision = None,
    epochs: Epochs = 3.0,
    steps: Steps = None,
    batch_size: BatchSize = 8,
    gradient_accumulation_steps: GradientAccumulation = 1,
    learning_rate: LearningRate = 2e-4,
    rank: Rank = 16,
    alpha: Alpha = None,
    dropout: Dropout = 0.0,
    target: Target = None,
    lisa: LisaFlag = False,
    lisa_layers: LisaLayers = 2,
    lisa_period: LisaPeriod = 5,
    lisa_error: LisaError = 0.05,
    seed: Seed = 0,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    gradient_checkpointing: GradientCheckpointing = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Solution Guidance Fine-Tuning (SGFT): train the guidance adapter on questions with guidance."""
    with training(out):
        from edgereason.training.lisa import LisaSettings
        from edgereason.training.lora_settings import ALL_LINEAR, LoraSettings
        from edgereason.training.recipes.guidance import train_guidance
        from edgereason.training.training_base import open_training_base

        schedule = _schedule(
            epochs,
            steps,
            batch_size,
            gradient_accumulation_steps,
            learning_rate,
            seed,
            save_every,
            gradient_checkpointing,
        )
        lora = LoraSettings(rank, alpha, dropout, tuple(target or [ALL_LINEAR]))
        method = LisaSettings(lisa_layers, lisa_period, lisa_error) if lisa else lora
        opened = open_training_base(base, revision, dtype)
        train_guidance(data, opened, out, schedule, method, max_length=max_length, resume=resume, force=force)


@app.command("answer")
def answer(
    data: Data,
    base: Base,
    out: Out,
    revision: Revision = None,
    alone: Annotated[float, typer.Option(help="Share of examples to train without guidance.")] = 0.0,
    epochs: Epochs = 3.0,
    steps: Steps = None,
    batch_size: BatchSize = 8,
    gradient_accumulation_steps: GradientAccumulation = 1,
    learning_rate: LearningRate = 2e-4,
    rank: Rank = 16,
    alpha: Alpha = None,
    dropout: Dropout = 0.0,
    target: Target = None,
    seed: Seed = 0,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    gradient_checkpointing: GradientCheckpointing = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Sci-CoT answer inference: train the answer adapter on questions with guidance and answers."""
    with training(out):
        from edgereason.training.lora_settings import ALL_LINEAR, LoraSettings
        from edgereason.training.recipes.answer import train_answer
        from edgereason.training.training_base import open_training_base

        schedule = _schedule(
            epochs,
            steps,
            batch_size,
            gradient_accumulation_steps,
            learning_rate,
            seed,
            save_every,
            gradient_checkpointing,
        )
        lora = LoraSettings(rank, alpha, dropout, tuple(target or [ALL_LINEAR]))
        opened = open_training_base(base, revision, dtype)
        train_answer(data, opened, out, schedule, lora, alone=alone, max_length=max_length, resume=resume, force=force)


@app.command("refine")
def refine(
    data: Data,
    base: Base,
    adapter: Adapter,
    out: Out,
    revision: Revision = None,
    samples: Samples = 8,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    pairs: Pairs = 4,
    beta: Annotated[float, typer.Option(help="DPO: beta, the strength of the tie to the initial adapter.")] = 0.1,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch_size: BatchSize = 8,
    gradient_accumulation_steps: GradientAccumulation = 1,
    learning_rate: LearningRate = 2e-5,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    gradient_checkpointing: GradientCheckpointing = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Self-refine instruction tuning: sample answers, and prefer those with the right result (DPO)."""
    with training(out):
        from edgereason.training.recipes.self_refine import train_refine
        from edgereason.training.sampling.text_sampler import SamplingSettings
        from edgereason.training.training_base import open_training_base

        schedule = _schedule(
            epochs,
            steps,
            batch_size,
            gradient_accumulation_steps,
            learning_rate,
            seed,
            save_every,
            gradient_checkpointing,
        )
        sampling = SamplingSettings(samples, temperature, top_p, max_new_tokens)
        opened = open_training_base(base, revision, dtype)
        train_refine(data, opened, adapter, out, schedule, sampling, beta, pairs, resume, force)


@app.command("process")
def process(
    data: Data,
    base: Base,
    adapter: Adapter,
    out: Out,
    revision: Revision = None,
    iterations: Annotated[int, typer.Option(help="Iterations of sampling, labelling, ranking and ORPO.")] = 1,
    samples: Samples = 8,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    rollouts: Annotated[int, typer.Option(help="Rollouts per step of an answer.")] = 8,
    labelled: Annotated[int, typer.Option(help="Questions per iteration with step labels.")] = 500,
    pairs: Pairs = 4,
    margin: Annotated[
        float, typer.Option(help="Minimum difference in score for a right answer to be preferred to another right one.")
    ] = 0.2,
    beta: Annotated[float, typer.Option(help="ORPO: weight of the odds ratio loss.")] = 0.1,
    reward_epochs: Annotated[float, typer.Option(help="Reward model: number of epochs.")] = 2.0,
    reward_rate: Annotated[float, typer.Option(help="Reward model: peak learning rate.")] = 2e-4,
    rank: Annotated[int, typer.Option(help="Reward model: LoRA rank.")] = 16,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch_size: BatchSize = 8,
    gradient_accumulation_steps: GradientAccumulation = 1,
    learning_rate: LearningRate = 5e-5,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    gradient_checkpointing: GradientCheckpointing = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Self-Iterative Process Feedback (SIPF): prefer answers by a process reward model (ORPO)."""
    with training(out):
        from edgereason.training.lora_settings import LoraSettings
        from edgereason.training.recipes.process_feedback import Feedback, train_process
        from edgereason.training.sampling.text_sampler import SamplingSettings
        from edgereason.training.training_base import open_training_base

        schedule = _schedule(
            epochs,
            steps,
            batch_size,
            gradient_accumulation_steps,
            learning_rate,
            seed,
            save_every,
            gradient_checkpointing,
        )
        reward = replace(schedule, epochs=reward_epochs, steps=None, learning_rate=reward_rate)
        sampling = SamplingSettings(samples, temperature, top_p, max_new_tokens)
        feedback = Feedback(sampling, rollouts, labelled, pairs, margin, beta)
        opened = open_training_base(base, revision, dtype)
        train_process(
            data, opened, adapter, out, schedule, feedback, reward, LoraSettings(rank), iterations, resume, force
        )


def _schedule(
    epochs: float,
    steps: int | None,
    batch_size: int,
    gradient_accumulation_steps: int,
    learning_rate: float,
    seed: int,
    save_every: int,
    gradient_checkpointing: bool,
) -> Schedule:
    from edgereason.training.trainer import Schedule

    return Schedule(
        epochs,
        steps,
        batch_size,
        gradient_accumulation_steps,
        learning_rate,
        seed=seed,
        save_every=save_every,
        gradient_checkpointing=gradient_checkpointing,
    )
