"""How many held-out problems the example model gets right, through both stages, with transformers and PEFT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from edgereason.errors import UsageError
from edgereason.problems.arithmetic.generator import Problem
from edgereason.problems.final_result import final_result
from edgereason.training.example.adapter_training import STAGES, render
from edgereason.training.example.optimization import int4_weights

BATCH = 50
NEW_TOKENS = 80


@dataclass(frozen=True)
class Outcome:
    """One problem, and what the model wrote in one way of asking it."""

    problem: Problem
    guidance: str
    answer: str

    @property
    def right(self) -> bool:
        return final_result(self.answer) == self.problem.result


@dataclass(frozen=True)
class Evaluation:
    """Outcomes of the same problems, by way of asking: "two stages", "no guidance", "two stages, int4"."""

    outcomes: dict[str, list[Outcome]]

    def accuracy(self, way: str) -> float:
        outcomes = self.outcomes[way]
        return sum(outcome.right for outcome in outcomes) / len(outcomes)

    def table(self) -> Table:
        """Right answers by structure and way of asking."""
        table = Table("structure", "problems", *self.outcomes)
        names = dict.fromkeys(outcome.problem.structure for outcome in next(iter(self.outcomes.values())))
        for name in names:
            picked = [[o for o in outcomes if o.problem.structure == name] for outcomes in self.outcomes.values()]
            table.add_row(name, str(len(picked[0])), *(str(sum(o.right for o in outcomes)) for outcomes in picked))
        total = len(next(iter(self.outcomes.values())))
        table.add_section()
        table.add_row("all", str(total), *(f"{100 * self.accuracy(way):.1f}%" for way in self.outcomes))
        return table


def read_problems(path: Path) -> list[Problem]:
    """Read problems from JSON lines.

    Raises:
        UsageError: the file is missing or not made of problems.
    """
    try:
        return [Problem(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing.", "Train the model first, with --out.") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is not a file of problems.", "Train the model again, with --out.") from error


def evaluate(directory: Path) -> Evaluation:
    """Measure base and adapters in `directory` on its `held_out.jsonl`, greedily and in float32.

    Three ways: through both stages; through both stages with the merged weights rounded to int4 (round to nearest,
    groups of 32, the output head in full precision); and the answer stage alone.
    """
    problems = read_problems(directory / "held_out.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(directory / "base")
    base = AutoModelForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, directory / "guidance", adapter_name="guidance").eval()
    model.load_adapter(directory / "answer", adapter_name="answer")

    def write(stage: int, guidance: Sequence[str | None], int4: bool) -> list[str]:
        model.set_adapter(STAGES[stage].name)
        texts = [
            render(tokenizer, STAGES[stage].prompt, problem.question, text)
            for problem, text in zip(problems, guidance, strict=True)
        ]
        with int4_weights(model, int4):
            return complete(model, tokenizer, texts)

    unknown: list[str | None] = [None] * len(problems)
    outcomes: dict[str, list[Outcome]] = {}
    for way, int4 in (("two stages", False), ("two stages, int4", True)):
        guidance = write(0, unknown, int4)
        answers = write(1, guidance, int4)
        outcomes[way] = [Outcome(*each) for each in zip(problems, guidance, answers, strict=True)]
    alone = write(1, unknown, False)
    outcomes["no guidance"] = [Outcome(each, "", answer) for each, answer in zip(problems, alone, strict=True)]
    return Evaluation(outcomes)


@torch.inference_mode()
def complete(model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """What the model writes after each prompt, decoded greedily, without special tokens."""
    texts: list[str] = []
    for first in range(0, len(prompts), BATCH):
        batch = tokenizer(list(prompts[first : first + BATCH]), padding=True, padding_side="left", return_tensors="pt")
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )
        texts += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts
