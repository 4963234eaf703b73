"""SIPF, Self-Iterative Process Feedback (arXiv 2412.08393): a small model learns from the steps of its own answers.

Each iteration, with the adapter of the one before: sample answers; label their steps by simulating how they go on
(`step_labels`); train a process reward model on the labels (`process_reward`); sample anew and rank by its scores
(`pairs`); prefer the best to the worst by Odds Ratio Preference Optimization (ORPO, arXiv 2403.07691).
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgereason.checkpoints.lora import read_adapter
from edgereason.errors import EdgeReasonWarning, UsageError
from edgereason.files import file_sha256
from edgereason.text.prompts import Prompt, dated
from edgereason.training.chat_tokens import Chat
from edgereason.training.distributed import processes
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.orpo import prefer
from edgereason.training.recipes.preference_pairs import pairs_by_process
from edgereason.training.recipes.preferences import (
    PAIRS,
    SUMMARY,
    Preferences,
    check_pairs,
    kept,
    preferences_of,
    prompt_of,
)
from edgereason.training.recipes.process_reward import ProcessReward, train_process_reward
from edgereason.training.recipes.step_labels import LabelledAnswer, label
from edgereason.training.run_directory import first_day, run_directory
from edgereason.training.sampling.attempts import TrainingQuestion, attempt, read_training_questions
from edgereason.training.sampling.text_sampler import SamplingSettings, TextSampler, derived, open_sampler
from edgereason.training.trainer import Schedule, quiet_libraries
from edgereason.training.training_base import TrainingBase
from edgereason.training.training_progress import counted

HISTORY = ("trainer_state.json", "loss.png")


@dataclass(frozen=True)
class Feedback:
    """How a model's answers become preferences.

    Attributes:
        sampling: How answers are sampled.
        rollouts: Continuations that are simulated after each step.
        labelled: Questions per iteration whose answers get labels, chosen anew each time: simulating all of them
            would cost by far the most, and what the reward model learns from some holds for the others.
        most_pairs: Pairs that one question gives at most.
        margin: By how much the score of a right answer has to be lower to be rejected for another right one.
        beta: The weight of ORPO's odds ratio beside its likelihood (the paper's lambda).

    Raises:
        UsageError: a value is out of its range.
    """

    sampling: SamplingSettings
    rollouts: int = 8
    labelled: int = 500
    most_pairs: int = 4
    margin: float = 0.2
    beta: float = 0.1

    def __post_init__(self) -> None:
        for name in ("rollouts", "labelled", "most_pairs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}.", "Give 1 or more.")
        if not 0 < self.margin <= 1 or self.beta <= 0:
            raise UsageError(
                f"margin is {self.margin} and beta {self.beta}.", "Give a margin of at most 1, and both above 0."
            )


def train_process(
    data: Path,
    base: TrainingBase,
    adapter: Path,
    out: Path,
    schedule: Schedule,
    feedback: Feedback,
    reward_schedule: Schedule,
    reward_lora: LoraSettings,
    iterations: int = 1,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train an answer adapter on, by feedback on the steps of its own answers.

    Args:
        data: As `refine.train_refine` reads it.
        base: The adapter's.
        adapter: Where training begins; it stays as it is.
        out: The new adapter's directory; `iterations/` in it tells how each went.
        schedule: Of each iteration's preference optimization.
        feedback: How preferences come about.
        reward_schedule: Of each iteration's process reward model.
        reward_lora: Of the reward model.
        iterations: How often.
        resume, force: See `run_directory`.

    Raises:
        UsageError: the data or an argument cannot be used, no question has a better and a worse answer in the first
            iteration, or a loss diverged.
        BundleError: the adapter is no plain LoRA adapter, or not of this base.
    """
    if iterations < 1:
        raise UsageError(f"iterations is {iterations}.", "Give 1 or more.")
    chat = Chat(base.path)
    prompt = dated(prompt_of(adapter), chat.tokenizer.template, first_day(out, resume))
    questions = read_training_questions(data, chat, prompt, base.context)
    feedback = replace(feedback, sampling=replace(feedback.sampling, calculator=prompt.calculator))
    settings = {
        "recipe": "process",
        "base": base.to_json(),
        "adapter": read_adapter(adapter).digest.hex(),
        "data": file_sha256(data),
        "prompt": prompt.to_json(),
        "feedback": asdict(feedback),
        "schedule": schedule.to_json(),
        "reward_schedule": reward_schedule.to_json(),
        "reward_lora": asdict(reward_lora),
        "iterations": iterations,
    }
    learner = _Learner(questions, chat, prompt, base, feedback, schedule, reward_schedule, reward_lora)
    with run_directory(out, settings, resume, force) as run, quiet_libraries():
        done: list[Path] = []
        with open_sampler(base, run.path) as sampler:
            for number in range(1, iterations + 1):
                work = run.path / f"iteration-{number}"
                work.mkdir(exist_ok=True)
                preferred = kept(work, lambda: learner.prefer(sampler, adapter, number, work))  # noqa: B023 (called now)
                if not preferred.pairs and done:
                    what = f"Iteration {number} found no pairs any more: the result is that of the one before."
                    warnings.warn(what, EdgeReasonWarning, stacklevel=2)
                    break
                check_pairs(preferred, data)
                adapter = learner.optimize(preferred, adapter, number, work)
                done.append(work)
        if processes().is_main_process:
            _gather(done, run.result)


@dataclass(frozen=True)
class _Learner:
    """What all iterations have in common."""

    questions: Sequence[TrainingQuestion]
    chat: Chat
    prompt: Prompt
    base: TrainingBase
    feedback: Feedback
    schedule: Schedule
    reward_schedule: Schedule
    reward_lora: LoraSettings

    def prefer(self, sampler: TextSampler, adapter: Path, number: int, work: Path) -> Preferences:
        """An iteration's preferences: sample, label, train the reward model, sample anew, rank."""
        sampler.use(adapter)
        seed = derived(self.schedule.seed, number)
        labelled = self._label(sampler, number, seed, work)
        reward = self._reward(labelled, adapter, work)
        with counted(f"{number}: sampling candidates") as progress:
            path = work / "candidates.jsonl"
            attempts = attempt(sampler, self.questions, self.feedback.sampling, derived(seed, 3), path, progress)
        ranked = reward.score(self.questions, attempts)
        pairs = pairs_by_process(ranked, self.feedback.most_pairs, self.feedback.margin)
        return preferences_of(self.questions, ranked, pairs)

    def optimize(self, preferred: Preferences, adapter: Path, number: int, work: Path) -> Path:
        """An iteration's preference optimization; returns its adapter."""
        title, beta = f"{number}: preferences", self.feedback.beta
        return prefer(
            self.questions,
            preferred.pairs,
            self.chat,
            self.prompt,
            self.base,
            adapter,
            self.schedule,
            beta,
            work,
            title,
        )

    def _label(self, sampler: TextSampler, number: int, seed: int, work: Path) -> list[LabelledAnswer]:
        count = min(self.feedback.labelled, len(self.questions))
        chosen = random.Random(f"{seed}/labelled").sample(list(self.questions), count)
        sampling = self.feedback.sampling
        with counted(f"{number}: sampling") as progress:
            attempts = attempt(sampler, chosen, sampling, derived(seed, 1), work / "attempts.jsonl", progress)
        sampling = replace(sampling, count=self.feedback.rollouts)
        with counted(f"{number}: simulating steps") as progress:
            return label(sampler, chosen, attempts, sampling, derived(seed, 2), work / "rollouts.jsonl", progress)

    def _reward(self, labelled: Sequence[LabelledAnswer], adapter: Path, work: Path) -> ProcessReward:
        return train_process_reward(
            labelled, self.chat, self.base, adapter, self.reward_schedule, self.reward_lora, work / "reward"
        )


def _gather(iterations: Sequence[Path], result: Path) -> None:
    """The last iteration's adapter, and what tells how each went."""
    shutil.copytree(iterations[-1] / "adapter", result, dirs_exist_ok=True)
    for number, work in enumerate(iterations, start=1):
        told = result / "iterations" / str(number)
        (told / "reward").mkdir(parents=True)
        files = [PAIRS, SUMMARY, *(f"reward/{name}" for name in HISTORY)]
        for name in files:
            shutil.copyfile(work / name, told / name)
        for name in HISTORY:
            shutil.copyfile(work / "adapter" / name, told / name)
