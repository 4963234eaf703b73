"""Weights from which a small model looks things up by name.

"Tom has 35 beads; Ava has 108 beads. The beads of Ava:" goes on with 108. To find it, one head has to take along what
stands a token or two back, at the question as at each amount, and a head of the next layer has to compare the two: an
induction head (arXiv 2209.11895). Neither is of use without the other, so that a model of ten million parameters does
not find them: after 1.8 million tokens of nothing but such lists it took any of the amounts. A model that starts with
both, on lists of 204 names, takes the right one in 38 of 100 cases after 25 steps and in 92 after 100. Structure at the
start instead of data: compare mimetic initialization, arXiv 2305.09828.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

BACK = (1, 2, 3)
"""How many tokens back the first layer's heads look."""

COMPARED = ((0, 1), (1, 2), (0, 2))
"""What each of the second layer's heads compares: how many tokens back where it looks from, and where it looks."""

# Chosen so that at the start a head of the first layer puts 0.99 of its attention on its token, and one of the second
# most of its attention on what it looks for.
_POSITION, _MATCH = 3.0, 2.0
_FAST, _SLOW = slice(0, 20), slice(16, 32)
"""Pairs of a head's 32 that RoPE turns fast enough to tell neighbours apart, and so slowly that only contents count."""


@torch.no_grad()
def start_with_induction(model: LlamaForCausalLM) -> None:
    """Set what a fresh Llama begins with; it has heads of 64, 193 or more hidden dimensions and two or more layers.

    The first key-value heads of the first layer look so many tokens back as `BACK` says, by position alone, and add
    what stands there in directions of their own; those of the second compare as `COMPARED` says. All others stay as
    they are: where every head of the second layer began so, the model was slower to learn where in its plan it is.
    """
    size, heads = model.config.hidden_size, model.config.num_key_value_heads
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    constant, *written = torch.linalg.qr(torch.randn(size, 1 + 64 * len(BACK)))[0].split([1, *[64] * len(BACK)], dim=1)
    # Something that every token has, equally much, so that heads can go by position alone; as a part of tied embeddings
    # it adds the same to all logits.
    embedding = model.model.embed_tokens.weight
    embedding -= embedding @ constant @ constant.T
    embedding.copy_(normalize(embedding) + constant.T)
    code = torch.randn(64, size) * size**-0.5
    code -= code @ constant @ constant.T

    for head, back in zip(range(heads), BACK, strict=False):
        here, there = _positions(back, model.config.rope_parameters["rope_theta"])
        _set_head(first, head, torch.outer(here, constant[:, 0]), torch.outer(there, constant[:, 0]))
        first.v_proj.weight[_rows(head)] = code
        group = first.num_key_value_groups
        columns = slice(64 * head * group, 64 * (head + 1) * group)
        first.o_proj.weight[:, columns] = written[head].repeat(1, group) * 2**0.5 / 8 / group

    reads = [code, *(directions.T for directions in written)]  # what is here, and what stood so many tokens back
    for head, (own, other) in zip(range(heads), COMPARED, strict=False):
        _set_head(second, head, _slowly(reads[own]), _slowly(reads[other]))


def _positions(back: int, theta: float) -> tuple[Tensor, Tensor]:
    """A query and a key, `[64]`, whose product is largest where RoPE has turned them `back` positions apart."""
    here = torch.zeros(32)
    here[_FAST] = _POSITION / (_FAST.stop - _FAST.start) ** 0.5
    angles = back * theta ** -(torch.arange(32) / 32)
    return torch.cat([here, here * 0]), torch.cat([here * angles.cos(), here * angles.sin()])


def _slowly(read: Tensor) -> Tensor:
    """A head that compares the first 32 of 64 numbers which `read`, `[64, hidden]`, gives, wherever they stand."""
    rows = torch.zeros_like(read)
    half = _SLOW.stop - _SLOW.start
    rows[_SLOW], rows[32 + _SLOW.start :] = _MATCH * read[:half], _MATCH * read[half : 2 * half]
    return rows


def _set_head(attention: LlamaAttention, head: int, query: Tensor, key: Tensor) -> None:
    """Give a key-value head this key and all of its queries this query, `[64, hidden]`."""
    attention.k_proj.weight[_rows(head)] = key
    group = attention.num_key_value_groups
    for each in range(head * group, (head + 1) * group):
        attention.q_proj.weight[_rows(each)] = query


def _rows(head: int) -> slice:
    return slice(64 * head, 64 * (head + 1))
