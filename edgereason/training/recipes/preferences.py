"""Learning from preference pairs with TRL's trainers, on from an adapter that is there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from edgereason.checkpoints.lora import read_adapter
from edgereason.errors import UsageError
from edgereason.export.inputs.adapter import open_adapter
from edgereason.files import new_file, read_json, read_json_lines, write_json
from edgereason.text.prompts import Prompt
from edgereason.training.chat_tokens import Chat
from edgereason.training.distributed import processes
from edgereason.training.recipes.answer import PROMPT
from edgereason.training.recipes.preference_pairs import Pair
from edgereason.training.sampling.attempts import Attempt, TrainingQuestion
from edgereason.training.training_base import TrainingBase

PAIRS = "pairs.jsonl"
SUMMARY = "sampling.json"


def trainable(base: TrainingBase, adapter: Path) -> PeftModel:
    """The base with an adapter that training changes."""
    model = PeftModel.from_pretrained(base.load(), str(adapter), is_trainable=True)
    # What the adapter was first trained on may have had another name, which PEFT would look for on the hub.
    model.active_peft_config.base_model_name_or_path = base.name
    return model


def prompt_of(adapter: Path) -> Prompt:
    """The prompt that an answer adapter was trained with.

    Raises:
        BundleError: it is no plain LoRA adapter, which sampling and training need.
    """
    read_adapter(adapter)
    return open_adapter(adapter, PROMPT).prompt


@dataclass(frozen=True)
class Preferences:
    """What is learned from, and what it was made of.

    Attributes:
        pairs: The preference pairs.
        summary: Counts, for people: `questions`, answers `sampled` and `right` ones among them, `different` answers,
            and `pairs`.
    """

    pairs: list[Pair]
    summary: dict[str, int]


def preferences_of(
    questions: Sequence[TrainingQuestion], attempts: Sequence[Attempt], pairs: list[Pair]
) -> Preferences:
    """Pairs with the counts of what they were made of."""
    counts = {
        "questions": len(questions),
        "sampled": sum(each.times for each in attempts),
        "right": sum(each.times for each in attempts if each.right),
        "different": len(attempts),
        "pairs": len(pairs),
    }
    return Preferences(pairs, counts)


def kept(directory: Path, make: Callable[[], Preferences]) -> Preferences:
    """The preferences that an earlier try has left in `pairs.jsonl` and `sampling.json`, or new ones, left there."""
    file, summary, state = directory / PAIRS, directory / SUMMARY, processes()
    state.wait_for_everyone()
    if file.is_file():
        return Preferences([Pair(**value) for _, value in read_json_lines(file)], read_json(summary))
    made = make()
    if state.is_main_process:
        write_json(summary, made.summary)
        with new_file(file) as partial:
            partial.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in made.pairs), encoding="utf-8")
    state.wait_for_everyone()
    return made


def check_pairs(preferred: Preferences, data: Path) -> None:
    """Raise `UsageError` where there is nothing to prefer."""
    if not preferred.pairs:
        counts = preferred.summary
        raise UsageError(
            f"{data} yields no preference pairs: {counts['right']} of {counts['sampled']} sampled answers are right, "
            "and no question has a better and a worse one.",
            "Give more --samples, a higher --temperature, or questions that the model gets right at times.",
        )


def dataset(questions: Sequence[TrainingQuestion], pairs: Sequence[Pair]) -> Dataset:
    """Pairs as TRL's trainers read them, with the prompts that inference uses."""
    return Dataset.from_list(
        [
            {"prompt": questions[pair.question].prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            for pair in pairs
        ]
    )


def rendered_tokenizer(base: TrainingBase, chat: Chat) -> PreTrainedTokenizerBase:
    """A tokenizer for rendered prompts, which have their special tokens: TRL's trainers add to an answer the end of its
    turn and nothing else."""
    tokenizer = base.tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end)
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    return tokenizer
