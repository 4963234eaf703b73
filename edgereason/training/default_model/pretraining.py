"""Bases of our own: small Llamas, pretrained from nothing on texts that are generated as they are needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from edgereason.training.default_model.tokenizer_training import TURN_END
from edgereason.training.default_model.training_loop import blocks, train

CONTEXT = 1024

TextSource = Callable[[random.Random], Sequence[str]]
"""Samples a text in parts. Every other part, from the first on, is only read, such as a question whose numbers nobody
can foretell; the others are learned. The random state alone decides the text, so that training can resume anywhere
without stored data."""

READING = 0.1
"""Weight of the loss on what is only to be read, where 1 is what is to be learned."""


def llama_config(
    tokenizer: PreTrainedTokenizerBase,
    hidden_size: int,
    intermediate_size: int,
    layers: int,
    key_value_heads: int,
) -> LlamaConfig:
    """A Llama with heads of 64 and tied embeddings; sizes that are multiples of 64 suit every engine."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=key_value_heads,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(TURN_END),
        pad_token_id=tokenizer.pad_token_id,
    )


def pretrain(
    config: LlamaConfig,
    tokenizer: PreTrainedTokenizerBase,
    sample: TextSource,
    seed: int,
    checkpoint: Path,
    steps: int,
    batch: int,
    length: int = 256,
    compiled: bool = False,
    start: Callable[[LlamaForCausalLM], None] | None = None,
    rate: float = 0.006,
) -> tuple[LlamaForCausalLM, list[float]]:
    """Train a base on `steps` batches of `batch` rows of `length` tokens, on a CUDA device where there is one.

    Args:
        compiled: Let `torch.compile` fuse what lies between the products; it needs a C++ compiler.
        start: Sets what weights begin with, where that is not Llama's usual.
        rate: Peak learning rate of the blocks' matrices; this one suits batches of a few thousand tokens.

    Returns:
        The model in float32, its weights already rounded to bfloat16, as they will be stored, and the losses.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    # Tied embeddings are the output head too: this spread gives logits of about one from the start.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=config.hidden_size**-0.5)
    if start:
        start(model)

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with blocks(model, compiled) as body:

        def loss_at(step: int) -> Tensor:
            first = step * batch
            rows = [pack_row(tokenizer, sample, f"{seed}/row/{first + row}", length + 1) for row in range(batch)]
            ids, weights = (torch.tensor(values, device=model.device) for values in zip(*rows, strict=True))
            return next_token_loss(body, model.lm_head, ids, weights)

        losses = train("base", model, _optimizers(model, rate), loss_at, steps, checkpoint, round_from=0.4)
    return model.to(torch.bfloat16).to(torch.float32), losses


def pack_row(
    tokenizer: PreTrainedTokenizerBase, sample: TextSource, seed: str, length: int
) -> tuple[list[int], list[float]]:
    """`length` tokens of texts one after the other, an end of text behind each, and their weights; the last is cut."""
    rng = random.Random(seed)
    row: list[int] = []
    weights: list[float] = []
    while len(row) < length:
        for number, part in enumerate(sample(rng)):
            ids = tokenizer(part)["input_ids"] if part else []
            row += ids
            weights += [READING if number % 2 == 0 else 1.0] * len(ids)
        row.append(tokenizer.pad_token_id)
        weights.append(1.0)
    return row[:length], weights[:length]


def next_token_loss(body: nn.Module, head: nn.Module, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of each next token. ids: `[B, T + 1]` int64, weights: `[B, T + 1]` float32."""
    weights = weights[:, 1:].flatten()
    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = body(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # [B, T, hidden]
        logits = head(hidden.flatten(0, 1))  # [B * T, vocab]
    losses = cross_entropy(logits.float(), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights).sum() / weights.sum()


def _optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (https://kellerjordan.github.io/posts/muon/), AdamW for embedding and norms."""
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    ids = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in ids]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0),
    ]
