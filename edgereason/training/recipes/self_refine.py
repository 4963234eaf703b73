"""Self-refine instruction tuning (arXiv 2405.00402): an instructed model prefers the right ones of its own answers.

The first phase, instruction tuning on demonstrations, is `answer`'s. This is the second: the model samples reasoning
paths, the known results say which are right, and Direct Preference Optimization (arXiv 2305.18290) prefers those.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from trl import DPOConfig, DPOTrainer

from edgereason.checkpoints.lora import read_adapter
from edgereason.errors import UsageError
from edgereason.files import file_sha256
from edgereason.text.prompts import dated
from edgereason.training.chat_tokens import Chat
from edgereason.training.recipes.preference_pairs import pairs_by_result
from edgereason.training.recipes.preferences import (
    PAIRS,
    SUMMARY,
    Preferences,
    check_pairs,
    dataset,
    kept,
    preferences_of,
    prompt_of,
    rendered_tokenizer,
    trainable,
)
from edgereason.training.run_directory import first_day, run_directory
from edgereason.training.sampling.attempts import TrainingQuestion, attempt, read_training_questions
from edgereason.training.sampling.text_sampler import SamplingSettings, open_sampler
from edgereason.training.trainer import Schedule, arguments, fit, keep, quiet_libraries, seeded
from edgereason.training.training_base import TrainingBase
from edgereason.training.training_progress import counted


def train_refine(
    data: Path,
    base: TrainingBase,
    adapter: Path,
    out: Path,
    schedule: Schedule,
    sampling: SamplingSettings,
    beta: float = 0.1,
    most_pairs: int = 4,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train an answer adapter on, by preferences among its own answers.

    Args:
        data: JSON lines with `question`, and `result` or an `answer` that ends in `#### result`; with `guidance`, what
            the prompt shows, and `choices` of multiple-choice questions.
        base: The adapter's.
        adapter: Where training begins; it stays as it is, and is DPO's reference model.
        out: The new adapter's directory.
        sampling: How answers are sampled.
        beta: How much the model is held to the reference.
        most_pairs: Pairs of a right and a wrong answer that one question gives at most.
        resume, force: See `run_directory`.

    Raises:
        UsageError: the data or an argument cannot be used, no question has both right and wrong answers, or the loss
            diverged.
        BundleError: the adapter is no plain LoRA adapter, or not of this base.
    """
    if beta <= 0 or most_pairs < 1:
        raise UsageError(f"beta is {beta} and most_pairs {most_pairs}.", "Give numbers above 0.")
    chat = Chat(base.path)
    prompt = dated(prompt_of(adapter), chat.tokenizer.template, first_day(out, resume))
    questions = read_training_questions(data, chat, prompt, base.context)
    sampling = replace(sampling, calculator=prompt.calculator)
    settings = {
        "recipe": "refine",
        "base": base.to_json(),
        "adapter": read_adapter(adapter).digest.hex(),
        "data": file_sha256(data),
        "prompt": prompt.to_json(),
        "sampling": asdict(sampling),
        "schedule": schedule.to_json(),
        "beta": beta,
        "most_pairs": most_pairs,
    }

    with run_directory(out, settings, resume, force) as run, quiet_libraries():
        preferred = kept(
            run.path, lambda: _prefer(questions, base, adapter, sampling, most_pairs, schedule.seed, run.path)
        )
        check_pairs(preferred, data)
        seeded(schedule.seed)
        trainer = DPOTrainer(
            trainable(base, adapter),
            args=DPOConfig(**arguments(schedule, base, run.checkpoints), beta=beta, max_length=None),
            train_dataset=dataset(questions, preferred.pairs),
            processing_class=rendered_tokenizer(base, chat),
        )
        fit(trainer, "refine", run.last_checkpoint())
        trainer.accelerator.unwrap_model(trainer.model).delete_adapter("ref")
        keep(trainer, prompt, base, run.result, "refine")
        for name in (PAIRS, SUMMARY):
            shutil.copyfile(run.path / name, run.result / name)


def _prefer(
    questions: list[TrainingQuestion],
    base: TrainingBase,
    adapter: Path,
    sampling: SamplingSettings,
    most_pairs: int,
    seed: int,
    work: Path,
) -> Preferences:
    with open_sampler(base, work) as sampler, counted("sampling") as progress:
        sampler.use(adapter)
        attempts = attempt(sampler, questions, sampling, seed, work / "attempts.jsonl", progress)
    return preferences_of(questions, attempts, pairs_by_result(attempts, most_pairs, seed))
