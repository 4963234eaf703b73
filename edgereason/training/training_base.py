"""Opening the model that an adapter is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from edgereason.errors import UsageError
from edgereason.export.inputs.base_model import open_base
from edgereason.export.inputs.tokenizer_files import file_tokenizer

DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingBase:
    """A base model's files, for training.

    Attributes:
        path: Its directory.
        name: What the adapter's configuration names as its base: the hub id, or the directory's absolute path.
        revision: The hub's commit; None for a directory.
        dtype: What its weights are held in.
    """

    path: Path
    name: str
    revision: str | None
    dtype: torch.dtype

    def load(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """The model, in `dtype` or the base's own, where transformers' Trainer will look for a device itself."""
        return AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype or self.dtype, trust_remote_code=False)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, with a token for padding; the examples' ids come from `Chat`."""
        tokenizer = file_tokenizer(self.path)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @property
    def context(self) -> int:
        """The model's maximum sequence length."""
        config = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
        return int(config.max_position_embeddings)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "revision": self.revision, "dtype": str(self.dtype).removeprefix("torch.")}


def open_training_base(source: str | Path, revision: str | None = None, dtype: str = "auto") -> TrainingBase:
    """Find a base: a directory, or a hub id that is downloaded.

    Args:
        source: Such as `Qwen/Qwen2.5-0.5B` or a directory.
        revision: Branch, tag or commit of a base from the hub.
        dtype: `float32`, `bfloat16`, or `auto`: bfloat16 on a CUDA device and float32 on a CPU.

    Raises:
        UsageError: `dtype` is none of these, or the base is quantized.
        ExportError: it is not there, has no safetensors weights, or is of a family that cannot be exported.
    """
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype}.", f"Give one of {', '.join(DTYPES)}.")
    files = open_base(source, revision=revision)
    if files.quantized:
        raise UsageError(
            f"{source} is quantized with {files.quantized.method}.", "Train on the 16-bit model that it was made from."
        )
    chosen = torch.bfloat16 if dtype == "bfloat16" or (dtype == "auto" and torch.cuda.is_available()) else torch.float32
    name = str(source) if files.revision else str(files.path.resolve())
    return TrainingBase(files.path, name, files.revision, chosen)
