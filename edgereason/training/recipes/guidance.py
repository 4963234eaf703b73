"""SGFT, Solution Guidance Fine-Tuning (arXiv 2412.09906): a model learns to write guidance; few examples suffice.

Guidance understands and decomposes a problem on the semantic and logical level and computes nothing; any answer model
can then use it. Sci-CoT's rationale generation (arXiv 2308.04679) is the same training, on rationales.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgereason.text.prompts import GUIDANCE, Prompt
from edgereason.training.examples import read_examples
from edgereason.training.lisa import LisaSettings
from edgereason.training.lora_settings import LoraSettings
from edgereason.training.recipes.supervised import Sample, train_stage
from edgereason.training.trainer import Schedule
from edgereason.training.training_base import TrainingBase

PROMPT = replace(GUIDANCE, history=False)
"""Each question stands alone: the adapter never sees a conversation."""


def train_guidance(
    data: Path,
    base: TrainingBase,
    out: Path,
    schedule: Schedule,
    method: LoraSettings | LisaSettings,
    prompt: Prompt = PROMPT,
    max_length: int | None = None,
    resume: bool = False,
    force: bool = False,
) -> None:
    """Train the guidance stage's adapter.

    Args:
        data: JSON lines with `question` and `guidance`, and `choices` of multiple-choice questions.
        out: The adapter's directory.
        method: LoRA, or LISA as the paper has it.
        max_length, resume, force: See `supervised.train_stage`.

    Raises:
        UsageError: the data cannot be used, or see `supervised.train_stage`.
    """
    samples = [
        Sample(example.text, None, example.guidance or "", example.line)
        for example in read_examples(data, ("guidance",))
    ]
    train_stage("guidance", prompt, samples, data, base, out, schedule, method, max_length, resume, force)
