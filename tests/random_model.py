"""Small models with random weights, made as a user's are: a Hugging Face base, and PEFT adapters on it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from edgereason.text.prompts import ANSWER, GUIDANCE, Prompt

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = ["Tom has 12 apples and buys 30 more.", "How many are left? Asked: the apples. #### 42", "é 猫 ✓"]


def save_tokenizer(directory: Path) -> Tokenizer:
    """Train a small byte-level BPE tokenizer and save it as transformers would."""
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": 256,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def save_base(directory: Path, seed: int = 0, **changes: object) -> None:
    """Save a random Llama in bf16 with its tokenizer; `changes` go into its configuration."""
    tokenizer = save_tokenizer(directory)
    settings: dict[str, object] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "bos_token_id": None,
        "pad_token_id": None,
        "initializer_range": 0.1,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).to(torch.bfloat16)
    model.save_pretrained(directory)


def save_adapter(base: Path, directory: Path, prompt: Prompt, seed: int = 0) -> None:
    """Save a random LoRA adapter of a base, with its prompt."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(directory)
    (directory / "prompt.json").write_text(json.dumps(prompt.to_json()))


def save_variant(
    base: Path,
    directory: Path,
    vocab: int | None = None,
    seed: int = 3,
    save_embedding_layers: bool | Literal["auto"] = "auto",
    **options: Any,
) -> None:
    """Save an adapter of any kind, all of whose trained weights are away from where they began.

    Args:
        base: Its base.
        directory: Where to save it.
        vocab: Resize the vocabulary to so many tokens.
        seed: Of its weights.
        save_embedding_layers: Whether PEFT saves both tables; "auto": where they were resized.
        options: Fields of PEFT's `LoraConfig`.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    if vocab:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of tied weights
        peft_model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **config))
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        peft_model.save_pretrained(directory, save_embedding_layers=save_embedding_layers)


def save_trio(directory: Path) -> dict[str, Path]:
    """A base and its two adapters, as the arguments of an export."""
    paths = {name: directory / name for name in ("base", "guidance", "answer")}
    save_base(paths["base"])
    save_adapter(paths["base"], paths["guidance"], GUIDANCE, seed=1)
    save_adapter(paths["base"], paths["answer"], ANSWER, seed=2)
    return paths
