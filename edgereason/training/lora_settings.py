"""LoRA (arXiv 2106.09685): what is trained of a model, and the files that export takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel

from edgereason.errors import UsageError
from edgereason.files import write_json
from edgereason.text.prompts import Prompt

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSettings:
    """What is trained.

    Attributes:
        rank: Of the factors.
        alpha: Their product is scaled by alpha / rank; twice the rank when None.
        dropout: Share of the factors' inputs that a training step leaves out.
        targets: The layers' names, such as `q_proj`; `all-linear` for every linear layer but the output head.

    Raises:
        UsageError: a value is out of its range.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or (self.alpha is not None and self.alpha <= 0):
            raise UsageError(
                f"LoRA with rank {self.rank}, alpha {self.alpha} and dropout {self.dropout} cannot be trained.",
                "Give a rank of 1 or more, an alpha above 0, and a dropout from 0 to below 1.",
            )

    def config(self, **other: Any) -> LoraConfig:
        """PEFT's configuration of a causal language model's adapter, with `other` fields in place of its own."""
        fields = {
            "r": self.rank,
            "lora_alpha": 2 * self.rank if self.alpha is None else self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": ALL_LINEAR if self.targets == (ALL_LINEAR,) else list(self.targets),
            "task_type": "CAUSAL_LM",
        }
        return LoraConfig(**{**fields, **other})


def save_adapter(model: PeftModel, prompt: Prompt, base: str, directory: Path) -> None:
    """Write PEFT's two files, the factors in float16, and `prompt.json`.

    Args:
        model: With one adapter.
        prompt: What the adapter was trained with.
        base: What adapter_config.json names as its base.
        directory: Has to be there.
    """
    model.active_peft_config.base_model_name_or_path = base
    # Embeddings are not trained here; left to itself, PEFT would look on the hub whether they changed.
    model.save_pretrained(str(directory), state_dict=_factors(model), save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)  # a model card without anything to say
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order changes from run to run
    write_json(path, config)
    write_json(directory / "prompt.json", prompt.to_json())


def _factors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's weights in float16, half of float32's bytes; bfloat16 would keep three bits fewer of each."""
    return {name: tensor.to(torch.float16) for name, tensor in model.state_dict().items() if "lora_" in name}
