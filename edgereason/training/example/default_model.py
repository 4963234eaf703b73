"""Make the default model: word problems of one to four steps, through both stages.

    python -m edgereason.training.example.default_model --out examples/word_problems --seed 0

Trains tokenizer, base, both adapters, and the single model that they are compared with. Interrupted at any moment, the
same command goes on from its last checkpoint. It uses a CUDA device where there is one.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers import LlamaConfig, PreTrainedTokenizerBase

from edgereason.errors import EdgeReasonError, UsageError
from edgereason.files import new_directory
from edgereason.problems.arithmetic.generator import Problem, draw_new, question_key
from edgereason.problems.word_problems import KNOWN, UNKNOWN, draw_problem, held_out
from edgereason.text.prompts import ANSWER, GUIDANCE
from edgereason.training.example.adapter_training import STAGES as PLAIN
from edgereason.training.example.adapter_training import Stage, save_adapter, train_adapter
from edgereason.training.example.induction_heads import start_with_induction
from edgereason.training.example.pretraining import CONTEXT, llama_config, pretrain
from edgereason.training.example.tiny_model import save_base, write_problems
from edgereason.training.example.train_tokenizer import train_tokenizer
from edgereason.training.example.word_problems_corpus import draw_text

BASE_NAME = "edgereason/word-problems"
VOCABULARY = 2304
HELD_OUT = 500


@dataclass(frozen=True)
class Plan:
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
        """Of each adapter. A chat without a guidance has two thirds of the tokens of one with it."""
        single = self.guidance_steps + round(1.5 * self.answer_steps)
        return {"guidance": self.guidance_steps, "answer": self.answer_steps, "single": single}


CPU = Plan(384, 1024, 6, 6, base_steps=5000, base_batch=8, guidance_steps=300, answer_steps=320, adapter_batch=32)
"""11.8 million parameters, 20 million tokens: 100 minutes on two cores."""
CUDA = Plan(768, 2048, 8, 4, base_steps=6000, base_batch=64, guidance_steps=400, answer_steps=800, adapter_batch=128)
"""56 million parameters, 200 million tokens."""

_CALCULATING = replace(ANSWER, history=False, calculator=True)

SINGLE = Stage("single", _CALCULATING, lambda problem, _: (None, problem.answer))
"""Base and rank of the two stages, but one adapter from the question to the answer, trained on as many tokens as both
adapters together: what they are compared with."""

STAGES = (PLAIN[0], replace(PLAIN[1], prompt=_CALCULATING), SINGLE)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def config(tokenizer: PreTrainedTokenizerBase, plan: Plan) -> LlamaConfig:
    """The base's, of a plan."""
    return llama_config(tokenizer, plan.hidden_size, plan.intermediate_size, plan.layers, plan.key_value_heads)


def make(out: Path, seed: int, work: Path, plan: Plan, stages: Collection[str] = STAGE_NAMES) -> None:
    """Train everything and write it to `out`; checkpoints lie in `work`, and what is there is not trained again.

    Args:
        stages: The adapters to train, of "guidance", "answer" and "single".
    """
    torch.use_deterministic_algorithms(True)
    known, unknown = held_out(seed, HELD_OUT, KNOWN), held_out(seed, HELD_OUT, UNKNOWN)
    exclude = {question_key(problem.question) for problem in (*known, *unknown)}
    out.mkdir(parents=True, exist_ok=True)
    write_problems(known, out / "held_out.jsonl")
    write_problems(unknown, out / "held_out_structures.jsonl")

    tokenizer = make_tokenizer(seed, exclude, plan.texts)
    model, _ = pretrain(
        config(tokenizer, plan),
        tokenizer,
        lambda rng: draw_text(rng, exclude),
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

    def draw(rng: random.Random) -> Problem:
        return draw_new(rng, exclude, draw_problem)

    for stage in (each for each in STAGES if each.name in stages):
        checkpoint, steps = work / f"{stage.name}.pt", plan.steps[stage.name]
        batch, compiled = plan.adapter_batch, plan.compiled
        tuned, _ = train_adapter(
            model, tokenizer, stage, draw, seed, checkpoint, steps, batch, BASE_NAME, compiled=compiled
        )
        with new_directory(out / stage.name, replace=True) as directory:
            save_adapter(tuned, stage, directory)
        model = tuned.unload()


def make_tokenizer(seed: int, exclude: Collection[str], texts: int) -> PreTrainedTokenizerBase:
    """Train the tokenizer on the first texts of the corpus and on the stages' prompts."""
    rng = random.Random(f"{seed}/tokenizer")
    corpus = ["".join(draw_text(rng, exclude)) for _ in range(texts)]
    prompts = [GUIDANCE.system, ANSWER.system, ANSWER.user, "system\nuser\nassistant\n"]
    return train_tokenizer(corpus + prompts * (texts // 100), CONTEXT, VOCABULARY, spaced_digits=True)


def main(
    out: Annotated[Path, typer.Option(help="Write the model to this directory.")],
    seed: Annotated[int, typer.Option(help="Decides everything that is drawn.")] = 0,
    work: Annotated[
        Path | None, typer.Option(help="Where checkpoints lie [default: build/word-problems-SEED].")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Adapters to train: guidance, answer, single; all by default.")
    ] = None,
) -> None:
    """Make the default model."""
    plan = CUDA if torch.cuda.is_available() else CPU
    try:
        if unknown := set(stage or ()) - set(STAGE_NAMES):
            raise UsageError(f"--stage {unknown.pop()} is no adapter.", f"Choose of {', '.join(STAGE_NAMES)}.")
        make(out, seed, work or Path("build") / f"word-problems-{seed}", plan, stage or STAGE_NAMES)
    except EdgeReasonError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
