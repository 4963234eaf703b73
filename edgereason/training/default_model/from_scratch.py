"""The default model from a seed: tokenizer, base, both adapters, and the single adapter that they are compared with."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.files import new_file
from edgereason.problems.word_problems import KNOWN, UNKNOWN, held_out, sample_problem
from edgereason.problems.worked_problem import WorkedProblem, question_key, sample_new
from edgereason.publishing import new_directory
from edgereason.text.prompts import ANSWER, GUIDANCE
from edgereason.training.default_model.adapter_training import STAGES, train_adapter
from edgereason.training.default_model.corpus import sample_text
from edgereason.training.default_model.induction_heads import start_with_induction
from edgereason.training.default_model.pretraining import CONTEXT, llama_config, pretrain
from edgereason.training.default_model.tokenizer_training import save_tokenizer, train_tokenizer
from edgereason.training.lora_settings import save_adapter

BASE_NAME = "edgereason/word-problems"
VOCABULARY = 2304
HELD_OUT = 500


@dataclass(frozen=True)
class TrainingPlan:
    """How large a model, and how long it is trained."""

    hidden_size: int
    intermediate_size: int
    layers: int
    key_value_heads: int
    base_steps: int
    base_batch: int
    guidance_steps: int
    answer_steps: int
    adapter_batch: int
    base_length: int = 512
    compiled: bool = True
    texts: int = 30_000
    """That the tokenizer is made from."""

    @property
    def steps(self) -> dict[str, int]:
        """Of each adapter. A chat without guidance has two thirds of the tokens of one with it."""
        single = self.guidance_steps + round(1.5 * self.answer_steps)
        return {"guidance": self.guidance_steps, "answer": self.answer_steps, "single": single}


CPU = TrainingPlan(
    384, 1024, 6, 6, base_steps=5000, base_batch=8, guidance_steps=300, answer_steps=320, adapter_batch=32
)
"""11.8 million parameters, 20 million tokens: 100 minutes on two cores."""
CUDA = TrainingPlan(
    768, 2048, 8, 4, base_steps=6000, base_batch=64, guidance_steps=400, answer_steps=800, adapter_batch=128
)
"""56 million parameters, 200 million tokens."""

STAGE_NAMES = tuple(stage.name for stage in STAGES)


def base_config(tokenizer: PreTrainedTokenizerBase, plan: TrainingPlan) -> LlamaConfig:
    """The base's, of a plan."""
    return llama_config(tokenizer, plan.hidden_size, plan.intermediate_size, plan.layers, plan.key_value_heads)


def train_from_scratch(
    out: Path, seed: int, work: Path, plan: TrainingPlan, stages: Collection[str] = STAGE_NAMES
) -> None:
    """Train everything and write it to `out`; checkpoints lie in `work`, and what is there is not trained again.

    Args:
        stages: The adapters to train, of "guidance", "answer" and "single".
    """
    torch.use_deterministic_algorithms(True)
    known, unknown = held_out(seed, HELD_OUT, KNOWN), held_out(seed, HELD_OUT, UNKNOWN)
    exclude = {question_key(problem.question) for problem in (*known, *unknown)}
    out.mkdir(parents=True, exist_ok=True)
    write_problems(known, out / "held_out.jsonl")

    tokenizer = make_tokenizer(seed, exclude, plan.texts)
    model, _ = pretrain(
        base_config(tokenizer, plan),
        tokenizer,
        lambda rng: sample_text(rng, exclude),
        seed,
        work / "base.pt",
        plan.base_steps,
        plan.base_batch,
        plan.base_length,
        plan.compiled,
        start_with_induction,
        rate=0.012,
    )
    with new_directory(out / "base", replace=True) as directory:
        save_base(model, tokenizer, directory)

    def sample(rng: random.Random) -> WorkedProblem:
        return sample_new(rng, exclude, sample_problem)

    for stage in (each for each in STAGES if each.name in stages):
        checkpoint, steps = work / f"{stage.name}.pt", plan.steps[stage.name]
        batch, compiled = plan.adapter_batch, plan.compiled
        tuned, _ = train_adapter(model, tokenizer, stage, sample, seed, checkpoint, steps, batch, compiled=compiled)
        with new_directory(out / stage.name, replace=True) as directory:
            save_adapter(tuned, stage.prompt, BASE_NAME, directory)
        model = tuned.unload()


def make_tokenizer(seed: int, exclude: Collection[str], texts: int) -> PreTrainedTokenizerBase:
    """Train the tokenizer on the first texts of the corpus and on the stages' prompts."""
    rng = random.Random(f"{seed}/tokenizer")
    corpus = ["".join(sample_text(rng, exclude)) for _ in range(texts)]
    prompts = [GUIDANCE.system, ANSWER.system, ANSWER.user, "system\nuser\nassistant\n"]
    return train_tokenizer(corpus + prompts * (texts // 100), CONTEXT, VOCABULARY)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the base in bfloat16, and its tokenizer."""
    model.to(torch.bfloat16).save_pretrained(directory)
    model.to(torch.float32)
    save_tokenizer(tokenizer, directory)


def write_problems(problems: Sequence[WorkedProblem], path: Path) -> None:
    """Write problems as JSON lines, atomically."""
    with new_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(problem.to_json()) + "\n" for problem in problems)
