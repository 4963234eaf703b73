"""A base and two adapters with random weights, whose texts are read back as the tokens that wrote them.

For the latency of the pipeline the number of tokens has to be the same for every engine, although one model's text is
the other one's prompt. So the vocabulary is made of pairs of letters, a small one and a
capital: no sequence of them can be read in another way. Everything else in the vocabulary has rows of zeros in the
output head, which never win against the best of 676 random logits: no end token comes.
"""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from checkpoint import Shape, write_checkpoint
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

RANK = 16
STAGES = ("guidance", "answer")
INSTRUCTIONS = {"guidance": 24, "answer": 32}
"""Tokens of each stage's fixed instructions, about as many as a sentence or two."""

_END = "<|endoftext|>"
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_pair(shape: Shape, directory: Path) -> None:
    """Write `base`, `guidance` and `answer` into `directory`, unless they are there.

    The adapters have rank 16 on every projection, in float16, as PEFT stores them.
    """
    base = directory / "base"
    words = vocabulary()
    if write_checkpoint(shape, base, speaks=range(len(words) - len(pairs()), len(words))):
        write_tokenizer(base)
        for stage in STAGES:
            shutil.rmtree(directory / stage, ignore_errors=True)
    for seed, stage in enumerate(STAGES):
        if not (directory / stage).is_dir():
            _write_adapter(shape, directory / stage, seed)


def pairs() -> list[str]:
    """The tokens that texts are made of."""
    return ["".join(pair) for pair in product(ascii_lowercase, ascii_uppercase)]


def vocabulary() -> list[str]:
    """Every token, by id."""
    return [_END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pairs()]


def text(count: int, generator: np.random.Generator) -> str:
    """Random words of `count` tokens."""
    return "".join(generator.choice(pairs(), count))


def write_tokenizer(directory: Path) -> None:
    """Byte-level BPE whose merges are the pairs, as a Hugging Face tokenizer."""
    ids = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(ids, [(pair[0], pair[1]) for pair in pairs()]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_END])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END, "chat_template": _TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def prompt(stage: str) -> dict[str, str]:
    """A stage's prompt: its instructions, the question, and for the answer the guidance."""
    system = text(INSTRUCTIONS[stage], np.random.default_rng(len(stage)))
    return {"system": system, "user": "{question}" if stage == "guidance" else "{question}\n{guidance}"}


def _write_adapter(shape: Shape, directory: Path, seed: int) -> None:
    generator = np.random.default_rng(1000 + seed)
    tensors = {}
    for name, size in shape.tensors():
        if name.split(".")[-2] in _PROJECTIONS and len(size) == 2:
            stem = "base_model.model." + name.removesuffix(".weight")
            down = generator.standard_normal((RANK, size[1]), np.float32) * 0.02
            up = generator.standard_normal((size[0], RANK), np.float32) * 0.02
            tensors[f"{stem}.lora_A.weight"] = down.astype(np.float16)
            tensors[f"{stem}.lora_B.weight"] = up.astype(np.float16)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": list(_PROJECTIONS),
    }
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "adapter_model.safetensors")
    (partial / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (partial / "prompt.json").write_text(json.dumps(prompt(directory.name), indent=2) + "\n")
    partial.rename(directory)
