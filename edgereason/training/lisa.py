"""LISA, Layerwise Importance Sampled AdamW (arXiv 2403.17919): full-parameter training of a few layers at a time.

Every few steps other decoder layers are sampled; only these have gradients and AdamW's two moments, so that training
all weights of all layers needs the memory of a few of them. The layers are sampled with equal probability, as in the
paper, which also trains embeddings and LM head throughout. Here they stay, and the norms too: what is trained becomes a
LoRA of the linear layers (`weight_difference`), and two stages can share one base.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgereason.errors import UsageError

_IN_A_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class LisaSettings:
    """How layers are sampled, and how exactly what they have learned is written.

    Attributes:
        layers: How many are trained at a time; the paper's gamma.
        period: Steps until others are sampled; the paper's K.
        error: How far the LoRA that is written may be from what was trained: the Frobenius norm of what it lacks, as a
            share of the change's own, in each matrix.

    Raises:
        UsageError: a value is out of its range.
    """

    layers: int = 2
    period: int = 5
    error: float = 0.05

    def __post_init__(self) -> None:
        if self.layers < 1 or self.period < 1 or not 0 < self.error < 1:
            raise UsageError(
                f"LISA cannot train {self.layers} layers for {self.period} steps to an error of {self.error}.",
                "Give 1 or more layers and steps, and an error between 0 and 1.",
            )


class LayerSampling(TrainerCallback):  # type: ignore[misc]
    """Freezes all decoder layers but those that are sampled; which ones follows from seed and step alone.

    Args:
        model: Everything but the linear weights of its decoder layers is frozen for good.
        lisa: How many are sampled, and how often.
        seed: Random seed.

    Raises:
        UsageError: the model has fewer layers than shall be trained.
    """

    def __init__(self, model: PreTrainedModel, lisa: LisaSettings, seed: int) -> None:
        self._layers = linear_weights(model)
        self._lisa, self._seed = lisa, seed
        if lisa.layers > len(self._layers):
            raise UsageError(
                f"{lisa.layers} layers cannot be trained at a time, the base has {len(self._layers)}.",
                "Give a smaller --lisa-layers.",
            )
        model.requires_grad_(False)
        # The optimizer takes what is trainable when it is made: all that will be sampled at some time.
        for layer in self._layers.values():
            for weight in layer:
                weight.requires_grad_(True)

    def sampled(self, step: int) -> frozenset[int]:
        """The layers that are trained in a step, by their numbers."""
        rng = random.Random(f"{self._seed}/lisa/{step // self._lisa.period}")
        return frozenset(rng.sample(sorted(self._layers), self._lisa.layers))

    def on_step_begin(
        self, _: TrainingArguments, state: TrainerState, __: TrainerControl, optimizer: Optimizer, **___: Any
    ) -> None:
        sampled = self.sampled(state.global_step)
        if state.global_step % self._lisa.period and self._active(sampled):
            return
        for number, layer in self._layers.items():
            for weight in layer:
                weight.requires_grad_(number in sampled)
                if number not in sampled:
                    weight.grad = None
                    optimizer.state.pop(weight, None)

    def _active(self, sampled: frozenset[int]) -> bool:
        return {number for number, layer in self._layers.items() if layer[0].requires_grad} == sampled


def linear_weights(model: PreTrainedModel) -> Mapping[int, list[Tensor]]:
    """The weights of the linear modules of every decoder layer, by its number."""
    layers: dict[int, list[Tensor]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (match := _IN_A_LAYER.search(name)):
            layers[int(match[1])].append(module.weight)
    return dict(layers)
