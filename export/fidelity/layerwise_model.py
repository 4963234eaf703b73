"""A reference model that is read layer by layer: a decoder layer has its weights only while it computes. A reference in
float32 takes the memory of its largest layer, so that a 7B model is verified on 16 GB.

Every forward pass reads all weights once; for few of them, batches are large, and the reference generates fewer tokens
than one that stays in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from edgereason.export.fidelity.distance import ComparedText, Logits
from edgereason.export.fidelity.reference_model import ReferenceModel, Weight, change, checked, padded
from edgereason.export.inputs.skeleton import placeholders
from edgereason.export.progress_callbacks import StepProgress, part_of, silent

_BATCH = 16
"""Sequences per batch: their hidden states, KV cache and attention scores are in memory."""
_ACTIVATION_BYTES = 3 << 30
"""Bytes for those, and for libraries."""


class LayerwiseModel(ReferenceModel):
    """A reference model whose weights are read when they are needed.

    Args:
        model: transformers' model, or PEFT's on it, whose weights are placeholders (see `skeleton.placeholder_model`).
        weight: Returns a weight by its name in the checkpoint, float32; None where `fill` sets it.
    """

    new_tokens = 16
    batch = _BATCH

    def __init__(self, model: Any, weight: Weight | None = None) -> None:
        super().__init__(model)
        self._weight = weight
        self._names: dict[nn.Parameter, str] = {}  # of tied ones the first name, which every checkpoint has
        for name, parameter in self.causal.named_parameters(remove_duplicate=False):
            self._names.setdefault(parameter, _plain(name))
        stack = self.causal.model
        for part in (stack.embed_tokens, *stack.layers, stack.norm, self.causal.lm_head):
            self._load_when_computing(part)

    def fill(self, weight: Weight, progress: StepProgress = silent) -> dict[str, float]:
        """As `ReferenceModel.fill`, reading the previous weights and the new ones; empty where there were none."""
        before, self._weight = self._weight, weight
        changes: dict[str, float] = {}
        held = list(dict.fromkeys(parameter for _, _, parameter in placeholders(self.causal)))
        for done, parameter in enumerate(held, start=1):
            if before is not None:
                name = self._names[parameter]
                new = checked(name, weight(name), parameter)
                changes[name] = change(checked(name, before(name), parameter), new)
            progress(done, len(held))
        return changes

    def logits(self, texts: Sequence[ComparedText], progress: StepProgress = silent) -> Iterator[tuple[int, Logits]]:
        """As `ReferenceModel.logits`: the decoder layers for a whole batch, then the LM head, text by text."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        for number, batch in enumerate(batches):
            part = part_of(progress, number, len(batches))
            ids, mask = padded([texts[index].ids for index in batch])
            with self._reported(part_of(part, 0, 2)):
                hidden = self._last_hidden(ids, mask)
            with self._lent(self.causal.lm_head):
                for row, index in enumerate(batch):
                    yield index, self._head(hidden[row : row + 1, : len(texts[index].ids)])
                    part_of(part, 1, 2)(row + 1, len(batch))

    @torch.no_grad()
    def _last_hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The input of the LM head, float32 `[B, T, hidden]`."""
        found: list[Tensor] = []
        handle = self.causal.model.register_forward_hook(
            lambda module, args, output: found.append(output.last_hidden_state)
        )
        try:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
        return found[0]

    @torch.no_grad()
    def _head(self, hidden: Tensor) -> Logits:
        """The logits `[T, vocab]` of `[1, T, hidden]`, with all that a family does to them after the LM head."""
        stack = self.causal.model
        stack.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
        try:
            # Its value is not used, but an input is required.
            found: Logits = self.causal(inputs_embeds=hidden, use_cache=False).logits[0].float().numpy()
        finally:
            del stack.forward
        return found

    def _load_when_computing(self, part: nn.Module) -> None:
        """Load a part's weights for the time of its forward pass."""
        lent: list[Any] = []

        def before(module: nn.Module, args: Any) -> None:
            lending = self._lent(part)
            lending.__enter__()
            lent.append(lending)

        def after(module: nn.Module, args: Any, output: Any) -> None:
            lent.pop().__exit__(None, None, None)

        part.register_forward_pre_hook(before)
        part.register_forward_hook(after, always_call=True)

    @contextmanager
    def _lent(self, part: nn.Module) -> Iterator[None]:
        """Real weights in place of a part's placeholders, for the duration of the block."""
        held = placeholders(part)
        read: dict[nn.Parameter, nn.Parameter] = {}  # one may be held in several places
        try:
            for holder, leaf, parameter in held:
                if parameter not in read:
                    read[parameter] = nn.Parameter(self._read(parameter), requires_grad=False)
                holder.register_parameter(leaf, read[parameter])
            yield
        finally:
            for holder, leaf, parameter in held:
                holder.register_parameter(leaf, parameter)

    def _read(self, parameter: nn.Parameter) -> Tensor:
        assert self._weight is not None
        name = self._names[parameter]
        return torch.from_numpy(np.require(checked(name, self._weight(name), parameter), requirements="W"))


def layerwise_memory_needed(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that a forward pass layer by layer takes.

    Args:
        shapes: The shapes of the weights, by their names in the checkpoint.
    """
    parts: dict[str, int] = {}
    for name, shape in shapes.items():
        layer = re.match(r"model\.layers\.\d+\.", name)
        part = layer[0] if layer else name
        parts[part] = parts.get(part, 0) + math.prod(shape)
    # A weight is read in another type, or in parts, before it is float32; an adapter computes beside it.
    return 2 * 4 * max(parts.values()) + _ACTIVATION_BYTES


def _plain(name: str) -> str:
    """A module's name in the checkpoint, without what PEFT puts around it."""
    return re.sub(r"\.(base_layer|original_module|token_adapter)\b", "", name)
