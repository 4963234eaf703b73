"""`edgereason train`: a command for each recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from edgereason.cli.display.training_errors import (
    Accumulate,
    Adapter,
    Alpha,
    Base,
    Batch,
    Data,
    Dropout,
    Dtype,
    Epochs,
    Force,
    LisaError,
    LisaFlag,
    LisaLayers,
    LisaPeriod,
    LowMemory,
    MaxLength,
    MaxNewTokens,
    Out,
    Pairs,
    Rank,
    Rate,
    Resume,
    Revision,
    Samples,
    SaveEvery,
    Seed,
    Steps,
    Target,
    Temperature,
    TopP,
    training,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train a stage's adapter on a base of your own.")


@app.command("guidance")
def guidance(
    data: Data,
    base: Base,
    out: Out,
    revision: Revision = None,
    epochs: Epochs = 3.0,
    steps: Steps = None,
    batch: Batch = 8,
    accumulate: Accumulate = 1,
    rate: Rate = 2e-4,
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
    low_memory: LowMemory = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Solution Guidance Fine-Tuning: learn to write guidances, from lines with question and guidance."""
    with training(out):
        from edgereason.training.lisa import Lisa
        from edgereason.training.lora_settings import ALL_LINEAR, Lora
        from edgereason.training.recipes.guidance import train_guidance
        from edgereason.training.trainer import Schedule
        from edgereason.training.training_base import open_base

        schedule = Schedule(
            epochs, steps, batch, accumulate, rate, seed=seed, save_every=save_every, low_memory=low_memory
        )
        lora = Lora(rank, alpha, dropout, tuple(target or [ALL_LINEAR]))
        method = Lisa(lisa_layers, lisa_period, lisa_error) if lisa else lora
        opened = open_base(base, revision, dtype)
        train_guidance(data, opened, out, schedule, method, longest=max_length, resume=resume, force=force)


@app.command("answer")
def answer(
    data: Data,
    base: Base,
    out: Out,
    revision: Revision = None,
    alone: Annotated[float, typer.Option(help="Share of the lines that are learned without their guidance.")] = 0.0,
    epochs: Epochs = 3.0,
    steps: Steps = None,
    batch: Batch = 8,
    accumulate: Accumulate = 1,
    rate: Rate = 2e-4,
    rank: Rank = 16,
    alpha: Alpha = None,
    dropout: Dropout = 0.0,
    target: Target = None,
    seed: Seed = 0,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    low_memory: LowMemory = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Sci-CoT's answer inference: learn to answer, from lines with question, choices, guidance and answer."""
    with training(out):
        from edgereason.training.lora_settings import ALL_LINEAR, Lora
        from edgereason.training.recipes.answer import train_answer
        from edgereason.training.trainer import Schedule
        from edgereason.training.training_base import open_base

        schedule = Schedule(
            epochs, steps, batch, accumulate, rate, seed=seed, save_every=save_every, low_memory=low_memory
        )
        lora = Lora(rank, alpha, dropout, tuple(target or [ALL_LINEAR]))
        opened = open_base(base, revision, dtype)
        train_answer(data, opened, out, schedule, lora, alone=alone, longest=max_length, resume=resume, force=force)


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
    beta: Annotated[float, typer.Option(help="How much DPO holds the model to the adapter it began with.")] = 0.1,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch: Batch = 8,
    accumulate: Accumulate = 1,
    rate: Rate = 2e-5,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    low_memory: LowMemory = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Self-refine instruction tuning: sample answers to questions with results, and prefer the right ones (DPO)."""
    with training(out):
        from edgereason.training.recipes.refine import train_refine
        from edgereason.training.sampling.sampling import Drawing
        from edgereason.training.trainer import Schedule
        from edgereason.training.training_base import open_base

        schedule = Schedule(
            epochs, steps, batch, accumulate, rate, seed=seed, save_every=save_every, low_memory=low_memory
        )
        drawing = Drawing(samples, temperature, top_p, max_new_tokens)
        opened = open_base(base, revision, dtype)
        train_refine(data, opened, adapter, out, schedule, drawing, beta, pairs, resume, force)


@app.command("process")
def process(
    data: Data,
    base: Base,
    adapter: Adapter,
    out: Out,
    revision: Revision = None,
    iterations: Annotated[int, typer.Option(help="How often to sample, label, rank and prefer.")] = 1,
    samples: Samples = 8,
    temperature: Temperature = 0.7,
    top_p: TopP = 1.0,
    max_new_tokens: MaxNewTokens = 256,
    rollouts: Annotated[int, typer.Option(help="Continuations that are simulated after each step.")] = 8,
    labelled: Annotated[int, typer.Option(help="Questions whose answers' steps are labelled in an iteration.")] = 500,
    pairs: Pairs = 4,
    margin: Annotated[
        float, typer.Option(help="By how much a right answer's score has to be lower to be rejected for another's.")
    ] = 0.2,
    beta: Annotated[float, typer.Option(help="The weight of ORPO's odds ratio beside its likelihood.")] = 0.1,
    reward_epochs: Annotated[float, typer.Option(help="Times that the reward model sees every labelled answer.")] = 2.0,
    reward_rate: Annotated[float, typer.Option(help="The reward model's learning rate at its peak.")] = 2e-4,
    rank: Annotated[int, typer.Option(help="The reward model's LoRA rank.")] = 16,
    epochs: Epochs = 1.0,
    steps: Steps = None,
    batch: Batch = 8,
    accumulate: Accumulate = 1,
    rate: Rate = 5e-5,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    low_memory: LowMemory = False,
    save_every: SaveEvery = 50,
    resume: Resume = False,
    force: Force = False,
) -> None:
    """Self-iterative process feedback: learn which steps lead to right results, rank answers by that, prefer (ORPO)."""
    with training(out):
        from edgereason.training.lora_settings import Lora
        from edgereason.training.recipes.process import Feedback, train_process
        from edgereason.training.sampling.sampling import Drawing
        from edgereason.training.trainer import Schedule
        from edgereason.training.training_base import open_base

        schedule = Schedule(
            epochs, steps, batch, accumulate, rate, seed=seed, save_every=save_every, low_memory=low_memory
        )
        reward = replace(schedule, epochs=reward_epochs, steps=None, rate=reward_rate)
        drawing = Drawing(samples, temperature, top_p, max_new_tokens)
        feedback = Feedback(drawing, rollouts, labelled, pairs, margin, beta)
        opened = open_base(base, revision, dtype)
        train_process(data, opened, adapter, out, schedule, feedback, reward, Lora(rank), iterations, resume, force)
