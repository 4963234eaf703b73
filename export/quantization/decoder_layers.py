"""A forward pass one decoder layer at a time: only the weights of the current layer are in memory.

Layers, masks and position embeddings are those of transformers, so that every family computes what it should.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import transformers
from accelerate import init_empty_weights
from torch import Tensor, nn

Float32 = npt.NDArray[np.float32]


class _Call(NamedTuple):
    """A decoder layer's arguments besides the hidden states, for sequences of one length."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class DecoderLayers:
    """A causal language model whose weights are read from a mapping when they are needed.

    Args:
        config: Its Hugging Face configuration.
        weights: Its tensors by their names in the checkpoint, float32; each is asked for once per use.

    Attributes:
        depth: The number of decoder layers.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Float32]) -> None:
        values = {key: value for key, value in config.items() if key != "quantization_config"}
        parsed = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(values)
        with warnings.catch_warnings(), init_empty_weights(include_buffers=False):
            warnings.simplefilter("ignore")
            self._model = transformers.AutoModelForCausalLM.from_config(parsed, dtype=torch.float32).eval()
        self._weights = weights
        self._layers: nn.ModuleList = self._model.model.layers
        self._calls: dict[int, list[_Call]] = {}
        self.depth = len(self._layers)

    @torch.no_grad()
    def embed(self, sequences: list[list[int]]) -> list[Tensor]:
        """The first layer's input for each sequence of token ids: float32 `[1, T, hidden]`."""
        with self._loaded("model.embed_tokens"):
            return [self._first_input(input_ids=torch.tensor([ids])) for ids in sequences]

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """A layer with its weights, for as long as the block takes."""
        with self._loaded(f"model.layers.{index}") as module:
            yield module

    @torch.no_grad()
    def run(self, index: int, hidden: Tensor) -> Tensor:
        """The output of a loaded layer for `[1, T, hidden]`, of the same shape."""
        call = self._call(index, hidden)
        output = self._layers[index](hidden, *call.args, **call.kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    @torch.no_grad()
    def logits(self, states: list[Tensor]) -> Iterator[Tensor]:
        """The logits `[T, vocab]` for the last layer's outputs `[1, T, hidden]`, one sequence after the other."""
        head = "lm_head" if "lm_head.weight" in self._weights else "model.embed_tokens"
        with self._loaded("model.norm"), self._loaded("lm_head", head):
            for hidden in states:

                def last(*args: Any, hidden: Tensor = hidden, **kwargs: Any) -> Tensor:
                    return hidden

                with self._replaced(last):
                    yield self._model(inputs_embeds=hidden, use_cache=False).logits[0]

    def _call(self, index: int, hidden: Tensor) -> _Call:
        length = hidden.shape[1]
        if length not in self._calls:
            self._first_input(inputs_embeds=torch.zeros_like(hidden))
        return self._calls[length][index]

    def _first_input(self, **inputs: Tensor) -> Tensor:
        """Run the model up to its first layer, and note each layer's arguments."""
        calls: list[_Call] = []
        first: list[Tensor] = []

        def note(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            first.append(hidden)
            calls.append(_Call(args, kwargs))
            if len(calls) == self.depth:
                raise _AllNotedError
            return hidden

        with self._replaced(note), suppress(_AllNotedError):
            self._model.model(**inputs, use_cache=False)
        self._calls[first[0].shape[1]] = calls
        return first[0]

    @contextmanager
    def _replaced(self, forward: Callable[..., Tensor]) -> Iterator[None]:
        """Replace the forward pass of every layer."""
        for layer in self._layers:
            layer.forward = forward
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward

    @contextmanager
    def _loaded(self, path: str, source: str | None = None) -> Iterator[nn.Module]:
        """Give a module the weights of that name, or of `source`, and take them away again."""
        module = self._model.get_submodule(path)
        names = [name for name, _ in module.named_parameters()]
        tensors = {name: torch.from_numpy(self._weights[f"{source or path}.{name}"]) for name in names}
        module.load_state_dict(tensors, strict=False, assign=True)
        module.requires_grad_(False)
        try:
            yield module
        finally:
            empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
            module.load_state_dict(empty, strict=False, assign=True)


class _AllNotedError(Exception):
    """Every layer was called once."""
