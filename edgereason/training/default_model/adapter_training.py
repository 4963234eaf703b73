"""The default model's LoRA adapters, trained on their chat prompts with PEFT."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.problems.worked_problem import WorkedProblem
from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt
from edgereason.training.default_model.tokenizer_training import TURN_END
from edgereason.training.default_model.training_loop import blocks, train

ALONE = 0.15
"""Share of the answer stage's samples that come without guidance, so that it can answer without one too."""

IGNORED = -100

_WIDTHS = 64
"""Compiled blocks are compiled once more for every width of a batch: let there be few."""


@dataclass(frozen=True)
class StageTraining:
    """What an adapter learns.

    Attributes:
        name: The adapter's.
        prompt: What the model is asked with.
        sample: From a problem the guidance that the prompt shows, None for none, and the completion to learn.
    """

    name: str
    prompt: Prompt
    sample: Callable[[WorkedProblem, random.Random], tuple[str | None, str]]


def _answer_sample(problem: WorkedProblem, rng: random.Random) -> tuple[str | None, str]:
    return (None if rng.random() < ALONE else problem.guidance), problem.answer


_CALCULATING = replace(ANSWER, history=False, calculator=True)

STAGES = (
    StageTraining("guidance", replace(GUIDANCE, history=False), lambda problem, _: (None, problem.guidance)),
    StageTraining("answer", _CALCULATING, _answer_sample),
    StageTraining("single", _CALCULATING, lambda problem, _: (None, problem.answer)),
)
"""Both stages, and what they are compared with: one adapter of the same rank from the question to the answer, trained
on as many tokens as both together."""


def train_adapter(
    base: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    stage: StageTraining,
    sample: Callable[[random.Random], WorkedProblem],
    seed: int,
    checkpoint: Path,
    steps: int,
    batch: int,
    rank: int = 16,
    compiled: bool = False,
) -> tuple[PeftModel, list[float]]:
    """Train one stage's adapter on all linear layers of `base`; the base itself stays as it is.

    Args:
        sample: Makes a problem; the random state alone decides it.
        compiled: See `pretrain`.

    Returns:
        The base with the adapter on it (its `unload()` gives the base back) and the loss of every step.
    """
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0
    )

    with blocks(base, compiled) as body:

        def loss_at(step: int) -> Tensor:
            rng = random.Random(f"{seed}/{stage.name}/{step}")
            samples = [sample_chat(tokenizer, stage, sample(rng), rng) for _ in range(batch)]
            ids, targets = pad(samples, tokenizer.pad_token_id, _WIDTHS if compiled else 1)
            return completion_loss(body, base.lm_head, ids.to(base.device), targets.to(base.device))

        return model, train(stage.name, model, [optimizer], loss_at, steps, checkpoint)


def sample_chat(
    tokenizer: PreTrainedTokenizerBase, stage: StageTraining, problem: WorkedProblem, rng: random.Random
) -> tuple[list[int], int]:
    """The tokens of one chat, and how many of them are its prompt."""
    guidance, completion = stage.sample(problem, rng)
    prompt = render_chat(tokenizer, stage.prompt, problem.question, guidance)
    ids: list[int] = tokenizer(prompt + completion + TURN_END)["input_ids"]
    return ids, len(tokenizer(prompt)["input_ids"])


def render_chat(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, question: str, guidance: str | None = None) -> str:
    """A stage's prompt as text, ready for the model's completion."""
    turns = prompt.messages(question, guidance)
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def pad(samples: Sequence[tuple[list[int], int]], filler: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Samples as a batch.

    Returns:
        ids `[B, T]` int64, filled up on the right to a T that `multiple` divides, and targets `[B, T]`: the next token
        where it belongs to a completion, IGNORED elsewhere.
    """
    width = max(len(ids) for ids, _ in samples) - 1
    width += -width % multiple
    inputs = torch.full((len(samples), width), filler)
    targets = torch.full((len(samples), width), IGNORED)
    for row, (ids, prompt) in enumerate(samples):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, prompt - 1 : len(ids) - 1] = torch.tensor(ids[prompt:])
    return inputs, targets


def completion_loss(body: nn.Module, head: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the completions' tokens. ids, targets: `[B, T]` int64."""
    chosen = targets != IGNORED
    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = body(input_ids=ids, use_cache=False).last_hidden_state  # [B, T, hidden]
        logits = head(hidden[chosen])  # [completion tokens, vocab]
    return cross_entropy(logits.float(), targets[chosen])
