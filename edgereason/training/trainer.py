"""What every recipe gives to TRL's trainers, and what is kept of a training that has ended."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from edgereason.errors import UsageError
from edgereason.text.prompts import Prompt
from edgereason.training.distributed import on_cpu, processes
from edgereason.training.lora_settings import save_adapter
from edgereason.training.loss_curve import plot_losses
from edgereason.training.training_base import TrainingBase
from edgereason.training.training_progress import shown_training


@dataclass(frozen=True)
class Schedule:
    """How long and how fast is trained.

    Attributes:
        epochs: Passes over the data.
        steps: Updates of the weights, instead of `epochs`.
        batch_size: Examples per device and forward pass.
        gradient_accumulation_steps: Batches per update of the weights.
        learning_rate: Peak learning rate; it falls along a cosine to zero.
        warmup: Share of the steps in which the learning rate rises.
        seed: Random seed of initialization, order and dropout.
        save_every: Steps between two checkpoints.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.

    Raises:
        UsageError: a value is out of its range.
    """

    epochs: float = 3.0
    steps: int | None = None
    batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 2e-4
    warmup: float = 0.03
    seed: int = 0
    save_every: int = 50
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        counts = {
            "batch_size": self.batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "save_every": self.save_every,
        }
        for name, value in {**counts, "steps": 1 if self.steps is None else self.steps}.items():
            if value < 1:
                raise UsageError(f"{name} is {value}.", "Give 1 or more.")
        for name, amount in {"epochs": self.epochs, "learning_rate": self.learning_rate}.items():
            if not 0 < amount < float("inf"):
                raise UsageError(f"{name} is {amount}.", "Give a number above 0.")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is {self.warmup}.", "Give a share from 0 to below 1.")

    def to_json(self) -> dict[str, Any]:
        """What makes one training differ from another; checkpoints do not."""
        value = asdict(self)
        del value["save_every"]
        return {**value, "processes": processes().num_processes}


def arguments(schedule: Schedule, base: TrainingBase, checkpoints: Path) -> dict[str, Any]:
    """The arguments that the configurations of all of TRL's trainers have in common."""
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": schedule.epochs,
        "max_steps": schedule.steps or -1,
        "per_device_train_batch_size": schedule.batch_size,
        "gradient_accumulation_steps": schedule.gradient_accumulation_steps,
        "learning_rate": schedule.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": schedule.warmup,  # a number below 1 is a share of the steps
        "gradient_checkpointing": schedule.gradient_checkpointing,
        "seed": schedule.seed,
        "use_cpu": on_cpu(),
        "ddp_find_unused_parameters": False,
        "bf16": base.dtype == torch.bfloat16,
        "save_strategy": "steps",
        "save_steps": schedule.save_every,
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # which would hide that a training diverged
        "disable_tqdm": True,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within, transformers and TRL say only what is an error, and send nothing anywhere."""
    # huggingface_hub reads the variable once, when it is imported, and its constant afterwards.
    import huggingface_hub.constants

    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # TRL and PEFT still use what transformers has renamed.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
        datasets.enable_progress_bars()


def seeded(seed: int) -> None:
    """Set every library's random state; before a model gets new weights, since PEFT samples them from it."""
    set_seed(seed)


def fit(trainer: Trainer, name: str, resume_from: str | None) -> None:
    """Train to the end and show the progress.

    Args:
        name: What the training is called in its progress.
        resume_from: A checkpoint, or None to begin.

    Raises:
        UsageError: the loss became NaN or infinite.
    """
    trainer.remove_callback(PrinterCallback)
    with shown_training(name) as progress:
        trainer.add_callback(progress)
        trainer.train(resume_from_checkpoint=resume_from)
    losses: Sequence[float] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if not all(torch.isfinite(torch.tensor(losses))):
        raise UsageError("The loss became NaN or infinite.", "Train with a lower --learning-rate.")


def keep(trainer: Trainer, prompt: Prompt, base: TrainingBase, directory: Path, title: str) -> None:
    """Write a trained adapter, `trainer_state.json` and `loss.png` to a directory that is there."""
    if not trainer.is_world_process_zero():
        return
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), prompt, base.name, directory)
    keep_history(trainer, directory, title)


def keep_history(trainer: Trainer, directory: Path, title: str) -> None:
    """Write `trainer_state.json` and `loss.png`."""
    trainer.state.save_to_json(str(directory / "trainer_state.json"))
    plot_losses(trainer.state.log_history, directory / "loss.png", title)
