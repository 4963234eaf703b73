"""A model that computes without being in memory: each decoder layer gets its weights when it is reached, and gives them
back. So a reference in float32 takes the memory of its largest layer, and a model of 7B is verified on 16 GB.

Every pass reads all weights once; to make few of them, many texts go through a pass together, and the reference writes
fewer tokens than one that stays in memory.
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

from edgereason.export.fidelity.distance import Logits, Text
from edgereason.export.fidelity.reference_model import Report, Weight, Witness, change, checked, padded
from edgereason.export.inputs.skeleton import placeholders

_BATCH = 16
"""Texts of one pass: what they become between two layers, their keys and values, and their scores are in memory."""
_ROOM = 3 << 30
"""Bytes for that, and for libraries."""


class StreamedWitness(Witness):
    """A model whose weights are read when they are needed.

    Args:
        model: transformers' model, or PEFT's on it, whose weights are placeholders (see `skeleton.empty_model`).
        weight: Gives those by their names in the checkpoint, float32; None where `fill` says it later.
    """

    new_tokens = 16
    batch = _BATCH

    def __init__(self, model: Any, weight: Weight | None = None) -> None:
        super().__init__(model)
        self._weight = weight
        self._causal: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._names: dict[nn.Parameter, str] = {}  # of tied ones the first name, which every checkpoint has
        for name, parameter in self._causal.named_parameters(remove_duplicate=False):
            self._names.setdefault(parameter, _plain(name))
        stack = self._causal.model
        for part in (stack.embed_tokens, *stack.layers, stack.norm, self._causal.lm_head):
            self._stream(part)

    def fill(self, weight: Weight) -> dict[str, float]:
        """As `Witness.fill`, reading both the weights until now and the new ones; empty where there were none."""
        before, self._weight = self._weight, weight
        changes: dict[str, float] = {}
        for parameter in dict.fromkeys(parameter for _, _, parameter in placeholders(self._causal)):
            if before is not None:
                name = self._names[parameter]
                new = checked(name, weight(name), parameter)
                changes[name] = change(checked(name, before(name), parameter), new)
        return changes

    def logits(self, texts: Sequence[Text], report: Report | None = None) -> Iterator[tuple[int, Logits]]:
        """As `Witness.logits`: first what a batch becomes before the output head, then the head, text by text."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index].ids))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            ids, mask = padded([texts[index].ids for index in batch])
            hidden = self._last_hidden(ids, mask)
            with self._lent(self._causal.lm_head):
                for row, index in enumerate(batch):
                    yield index, self._head(hidden[row : row + 1, : len(texts[index].ids)])
            if report:
                report(start + len(batch), len(order))

    @torch.no_grad()
    def _last_hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What the output head gets, float32 `[B, T, hidden]`."""
        found: list[Tensor] = []
        handle = self._causal.model.register_forward_hook(
            lambda module, args, output: found.append(output.last_hidden_state)
        )
        try:
            self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
        return found[0]

    @torch.no_grad()
    def _head(self, hidden: Tensor) -> Logits:
        """The logits `[T, vocab]` of `[1, T, hidden]`, with all that a family does to them behind the output head."""
        stack = self._causal.model
        stack.forward = lambda *args, **kwargs: BaseModelOutputWithPast(last_hidden_state=hidden)
        try:
            # It reads nothing of what it is given, but asks for something.
            found: Logits = self._causal(inputs_embeds=hidden, use_cache=False).logits[0].float().numpy()
        finally:
            del stack.forward
        return found

    def _stream(self, part: nn.Module) -> None:
        """Let a part of the model have its weights while it computes."""
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
        """Real weights in place of a part's placeholders, for as long as the block takes."""
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


def streamed_memory_needed(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes that computing with a model takes that is streamed.

    Args:
        shapes: Of its weights, by their names in the checkpoint.
    """
    parts: dict[str, int] = {}
    for name, shape in shapes.items():
        layer = re.match(r"model\.layers\.\d+\.", name)
        part = layer[0] if layer else name
        parts[part] = parts.get(part, 0) + math.prod(shape)
    # A weight is read in another type, or in parts, before it is float32; an adapter computes beside it.
    return 2 * 4 * max(parts.values()) + _ROOM


def _plain(name: str) -> str:
    """A module's name in the checkpoint, without what PEFT puts around it."""
    return re.sub(r"\.(base_layer|original_module|token_adapter)\b", "", name)
