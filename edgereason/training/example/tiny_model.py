"""Make the example model, or measure it.

    python -m edgereason.training.example.tiny_model --out examples/tiny --seed 0
    python -m edgereason.training.example.tiny_model --evaluate examples/tiny

The first trains tokenizer, base and both adapters from nothing but a seed: about 30 minutes on two cores with AVX-512
BF16. Interrupted, it continues from its last checkpoint. On one machine, a seed always gives the same files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.errors import EdgeReasonError, UsageError
from edgereason.files import new_directory, new_file
from edgereason.problems.arithmetic.generator import Problem, draw_new, held_out, question_key
from edgereason.text.prompts import ANSWER, GUIDANCE
from edgereason.training.example.adapter_training import STAGES, save_adapter, train_adapter
from edgereason.training.example.arithmetic_corpus import draw_text
from edgereason.training.example.greedy_accuracy import evaluate
from edgereason.training.example.pretraining import CONTEXT, llama_config, pretrain
from edgereason.training.example.train_tokenizer import save_tokenizer, train_tokenizer

BASE_NAME = "edgereason/tiny"
BASE_STEPS = 2200
BASE_BATCH = 16
ADAPTER_STEPS = 200
ADAPTER_BATCH = 48

console = Console()


def make(out: Path, seed: int, work: Path) -> None:
    """Train everything and write it to `out`; checkpoints lie in `work`, and what is there is not trained again."""
    torch.use_deterministic_algorithms(True)
    problems = held_out(seed)
    exclude = {question_key(problem.question) for problem in problems}
    out.mkdir(parents=True, exist_ok=True)
    write_problems(problems, out / "held_out.jsonl")

    tokenizer = make_tokenizer(seed, exclude)

    def draw(rng: random.Random) -> tuple[str, str]:
        return "", draw_text(rng, exclude)

    config = llama_config(tokenizer, 256, 768, layers=6, key_value_heads=2)  # 5.2 million parameters
    model, _ = pretrain(config, tokenizer, draw, seed, work / "base.pt", BASE_STEPS, BASE_BATCH)
    with new_directory(out / "base", replace=True) as directory:
        save_base(model, tokenizer, directory)
    for stage in STAGES:
        checkpoint = work / f"{stage.name}.pt"
        tuned, _ = train_adapter(
            model,
            tokenizer,
            stage,
            lambda rng: draw_new(rng, exclude),
            seed,
            checkpoint,
            ADAPTER_STEPS,
            ADAPTER_BATCH,
            BASE_NAME,
        )
        with new_directory(out / stage.name, replace=True) as directory:
            save_adapter(tuned, stage, directory)
        model = tuned.unload()


def make_tokenizer(seed: int, exclude: Collection[str], texts: int = 30_000) -> PreTrainedTokenizerBase:
    """Train the tokenizer on the first texts of the corpus and on the stages' prompts."""
    rng = random.Random(f"{seed}/tokenizer")
    corpus = [draw_text(rng, exclude) for _ in range(texts)]
    prompts = [GUIDANCE.system, ANSWER.system, ANSWER.user, "system\nuser\nassistant\n"]
    return train_tokenizer(corpus + prompts * (texts // 100), CONTEXT)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the base in bfloat16, and its tokenizer."""
    model.to(torch.bfloat16).save_pretrained(directory)
    model.to(torch.float32)
    save_tokenizer(tokenizer, directory)


def write_problems(problems: list[Problem], path: Path) -> None:
    """Write problems as JSON lines, atomically."""
    with new_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(problem.to_json()) + "\n" for problem in problems)


def main(
    out: Annotated[Path | None, typer.Option(help="Train, and write the model to this directory.")] = None,
    seed: Annotated[int, typer.Option(help="Decides everything that is drawn.")] = 0,
    work: Annotated[Path | None, typer.Option(help="Where checkpoints lie [default: build/tiny-SEED].")] = None,
    evaluate_: Annotated[Path | None, typer.Option("--evaluate", help="Measure the model in this directory.")] = None,
) -> None:
    """Make the example model, or measure it on its held-out problems."""
    try:
        if (out is None) == (evaluate_ is None):
            raise UsageError("Either --out or --evaluate is needed.", "--out trains, --evaluate measures.")
        if out is not None:
            make(out, seed, work or Path("build") / f"tiny-{seed}")
        directory = out or evaluate_
        assert directory is not None
        console.print(evaluate(directory).table())
    except EdgeReasonError as error:
        Console(stderr=True).print(f"error: {error}", highlight=False)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
