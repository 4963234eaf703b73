"""What a full-parameter training has changed, as a LoRA adapter: the singular value decomposition of each change.

The first r singular triples are the closest matrix of rank r (Eckart and Young, 1936); r is as large as the wanted
closeness needs, matrix by matrix, and the adapter's configuration has each one's rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgereason.errors import UsageError


@dataclass(frozen=True)
class Closeness:
    """How close an adapter is to what was trained.

    Attributes:
        matrices: How many were changed.
        largest_rank: Of the adapter's factors.
        mean_rank: The same on average.
        error: Frobenius norm of what the adapter lacks, over that of the change, all matrices together.
        parameters: Of the adapter.
    """

    matrices: int
    largest_rank: int
    mean_rank: float
    error: float
    parameters: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def factors(change: Tensor, error: float) -> tuple[Tensor, Tensor]:
    """The smallest factors whose product is close enough to a matrix.

    Args:
        change: `[out, in]` float32, not all zero.
        error: Largest Frobenius norm of what the product lacks, as a share of that of `change`.

    Returns:
        `b` `[out, r]` and `a` `[r, in]` float32, singular values shared equally, so that both have a like scale.
    """
    u, s, vt = torch.linalg.svd(change, full_matrices=False)
    # lacking[r]: the squared norm of what rank r leaves out, summed from the smallest one for accuracy.
    lacking = torch.cat([s.double().square().flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
    rank = max(1, int((lacking > error**2 * lacking[0]).sum()))
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def as_adapter(base: PreTrainedModel, trained: PreTrainedModel, error: float) -> tuple[PeftModel, Closeness]:
    """A LoRA on `base` that does what training has done to its linear layers.

    Args:
        base: In float32, as it was before; gets the adapter.
        trained: The same model after training, in float32.
        error: See `factors`.

    Raises:
        UsageError: training has changed nothing.
    """
    before = {name: module.weight for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    squares = [0.0, 0.0]
    for name, module in trained.named_modules():
        if name not in before:
            continue
        change = module.weight.detach().float().cpu() - before[name].detach().float().cpu()
        if change.any():
            b, a = found[name] = factors(change, error)
            squares[0] += float((change - b @ a).double().square().sum())
            squares[1] += float(change.double().square().sum())
    if not found:
        raise UsageError("Training has changed nothing.", "Train for more --steps, or with a higher --learning-rate.")
    ranks = {name: a.shape[0] for name, (_, a) in found.items()}
    size = sum(b.numel() + a.numel() for b, a in found.values())
    closeness = Closeness(
        len(found), max(ranks.values()), sum(ranks.values()) / len(ranks), (squares[0] / squares[1]) ** 0.5, size
    )
    return _adapter(base, found, ranks), closeness


def _adapter(base: PreTrainedModel, found: dict[str, tuple[Tensor, Tensor]], ranks: dict[str, int]) -> PeftModel:
    largest = max(ranks.values())
    # alpha is the rank everywhere: what is added is the product itself.
    patterns = {name: rank for name, rank in ranks.items() if rank != largest}
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=patterns,
        alpha_pattern=patterns,
        target_modules=list(found),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, (b, a) in found.items():
            layer = model.get_base_model().get_submodule(name)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    return model
