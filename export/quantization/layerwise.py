"""GPTQ through a whole model, one decoder layer at a time.

A layer's Hessian comes from inputs that the quantized layers before it have computed, so that each layer compensates
for their errors. Within a decoder layer the linear layers are quantized in the order in which they are computed, for
the same reason; layers of one input have the same Hessian and are quantized together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgereason.errors import ExportError
from edgereason.export.progress_callbacks import StepProgress, part_of
from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.export.quantization.gptq import GptqOptions, Hessian, quantize_with_gptq
from edgereason.export.quantization.layer_store import LayerGroup, LayerStore
from edgereason.export.quantization.quantized_linear import QuantizedLinear
from edgereason.export.quantization.round_to_nearest import check_scales

_PROBES = 16
"""Sequences on which the loss of a group of layers is measured."""


def quantize_layers(
    decoder: DecoderLayers,
    sequences: list[list[int]],
    options: GptqOptions,
    store: LayerStore,
    progress: StepProgress,
    choices: tuple[int, ...] = (),
) -> None:
    """Quantize the linear layers of all decoder layers into a store; those that it already has stay as they are.

    Args:
        decoder: The model in full precision.
        sequences: Calibration text as token ids. Each has a forward pass of its own, so lengths may differ.
        options: How layers are quantized.
        store: Where finished layers go.
        progress: Called after each sequence of each step in a decoder layer.
        choices: Bits to choose from later: each layer is stored in all of them, with its loss in each, and the layers
            that follow get their inputs from the fewest bits.

    Raises:
        ExportError: the calibration text is empty, or a layer's Hessian is unusable.
    """
    if not sequences:
        raise ExportError("The calibration text is empty.", "Give a file with text, or leave --calibration-text out.")
    states = decoder.embed(sequences)
    bits = choices or (options.bits,)
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            part = part_of(progress, index, decoder.depth)
            work = _DecoderLayer(decoder, index, layer, states)
            if store.has(index):
                install(layer, index, {name: weight.dequantize() for name, weight in store.weights(index, {}).items()})
                groups: list[tuple[str, ...]] = []
            else:
                groups = work.groups()
                store.write(
                    index,
                    [
                        work.quantize(names, options, bits, bool(choices), part_of(part, number, len(groups) + 1))
                        for number, names in enumerate(groups)
                    ],
                )
            forward = part_of(part, len(groups), len(groups) + 1)
            for number, hidden in enumerate(states):
                states[number] = decoder.run(index, hidden)
                forward(number + 1, len(states))


def install(layer: nn.Module, index: int, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Replace weights of linear layers in a loaded decoder layer, by their names in the checkpoint."""
    for name, weight in weights.items():
        _linear(layer, index, name).weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)


def _linear(layer: nn.Module, index: int, name: str) -> nn.Linear:
    module = layer.get_submodule(name.removeprefix(f"model.layers.{index}."))
    assert isinstance(module, nn.Linear)
    return module


class _DecoderLayer:
    """A loaded decoder layer, whose linear layers become quantized ones."""

    def __init__(self, decoder: DecoderLayers, index: int, layer: nn.Module, states: list[Tensor]) -> None:
        self._decoder = decoder
        self._index = index
        self._layer = layer
        self._states = states

    def groups(self) -> list[tuple[str, ...]]:
        """The names of the linear layers, those of one input together, in the order in which they are computed."""
        found: list[tuple[Tensor, list[str]]] = []

        def note(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                for tensor, names in found:
                    if tensor is args[0]:
                        names.append(name)
                        return
                found.append((args[0], [name]))

            return hook

        linear = {name: module for name, module in self._layer.named_modules() if isinstance(module, nn.Linear)}
        hooks = [module.register_forward_pre_hook(note(name)) for name, module in linear.items()]
        self._run(self._states[0])
        for each in hooks:
            each.remove()
        return [tuple(f"model.layers.{self._index}.{name}" for name in names) for _, names in found]

    def quantize(
        self,
        names: tuple[str, ...],
        options: GptqOptions,
        choices: tuple[int, ...],
        measure: bool,
        progress: StepProgress,
    ) -> tuple[LayerGroup, dict[int, list[QuantizedLinear]]]:
        """Quantize a group of layers to each of the bits, and go on with the weights of the fewest bits."""
        modules = [self._module(name) for name in names]
        hessian = self._hessian(modules[0], names, part_of(progress, 0, 2))
        rounding = part_of(progress, 1, 2)
        weight, rows = torch.cat([module.weight for module in modules]), [module.out_features for module in modules]
        exact = [self._run(hidden) for hidden in self._states[:_PROBES]] if measure else []
        results: dict[int, list[QuantizedLinear]] = {}
        losses: dict[int, float] = {}
        for done, bits in enumerate(sorted(choices, reverse=True), start=1):  # the fewest come last and stay
            statistics = hessian if bits == min(choices) else hessian.clone()
            rounded = quantize_with_gptq(weight, statistics, replace(options, bits=bits))
            results[bits] = rounded.split(rows)
            for name, before, part in zip(names, torch.split(weight.detach(), rows), results[bits], strict=True):
                check_scales(part.scales, before.numpy(), bits, f"{name}.weight")
            install(
                self._layer,
                self._index,
                dict(zip(names, (part.dequantize() for part in results[bits]), strict=True)),
            )
            if measure:
                losses[bits] = self._loss(exact)
            rounding(done, len(choices))
        sizes = {bits: sum(part.to_packed().nbytes for part in parts) for bits, parts in results.items()}
        return LayerGroup(names, losses, sizes), results

    def _hessian(self, module: nn.Linear, names: tuple[str, ...], progress: StepProgress) -> Tensor:
        """XᵀX of a linear layer's inputs over the calibration text; the layers behind it are not computed."""
        hessian = Hessian(module.in_features)
        with _stopping_before(module, hessian.add):
            for done, hidden in enumerate(self._states, start=1):
                with suppress(_ReachedError):
                    self._run(hidden)
                progress(done, len(self._states))
        if not torch.isfinite(hessian.value.diagonal()).all():
            raise ExportError(
                f"The inputs of {names[0]} are not finite on the calibration text.", "Check the base and the adapter."
            )
        return hessian.value

    def _loss(self, exact: list[Tensor]) -> float:
        """The squared error of the decoder layer's outputs, as a share of their squares."""
        error = sum(float((self._run(x) - y).square().sum()) for x, y in zip(self._states, exact, strict=False))
        return error / sum(float(y.square().sum()) for y in exact)

    def _run(self, hidden: Tensor) -> Tensor:
        return self._decoder.run(self._index, hidden)

    def _module(self, name: str) -> nn.Linear:
        return _linear(self._layer, self._index, name)


class _ReachedError(Exception):
    """The forward pass has come to the layer whose inputs are wanted."""


@contextmanager
def _stopping_before(module: nn.Module, take: Callable[[Tensor], None]) -> Iterator[None]:
    """Take a module's inputs, and compute nothing from there on."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        take(args[0])
        raise _ReachedError

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
