"""GPTQ through a whole model, one decoder layer at a time.

A layer's statistics come from inputs that the rounded layers before it have computed, so that each makes up for errors
of those before. Within a decoder layer the linear layers go in the order in which they are computed, for the same
reason; those of one input have the same statistics and are rounded together.
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
from edgereason.export.quantization.decoder_layers import Decoder
from edgereason.export.quantization.gptq import Hessian, Method, quantize
from edgereason.export.quantization.layer_store import LayerStore, Unit
from edgereason.export.quantization.quantized_linear import QuantizedLinear

Report = Callable[[int, int], None]
"""Called with the decoder layers done and their number."""

_PROBES = 16
"""Sequences on which a unit's loss is measured."""


def quantize_layers(
    decoder: Decoder,
    sequences: list[list[int]],
    method: Method,
    store: LayerStore,
    report: Report,
    choices: tuple[int, ...] = (),
) -> None:
    """Round the linear layers of all decoder layers into a store; those that it has already stay as they are.

    Args:
        decoder: The model in full precision.
        sequences: Calibration text as ids. Each is run on its own, so lengths may differ.
        method: How layers are rounded.
        store: Where finished layers go.
        report: Called after each decoder layer.
        choices: Bits among which a choice will be made: each layer is kept in all of them, with its loss in each, and
            those that follow get the inputs that the fewest bits make.

    Raises:
        ExportError: the calibration text is empty, or a layer's statistics are unusable.
    """
    if not sequences:
        raise ExportError("The calibration text is empty.", "Give a file with text, or leave --calibration out.")
    states = decoder.embed(sequences)
    bits = choices or (method.bits,)
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            work = _DecoderLayer(decoder, index, layer, states)
            if store.has(index):
                install(layer, index, {name: weight.dequantize() for name, weight in store.weights(index, {}).items()})
            else:
                store.write(index, [work.round(names, method, bits, bool(choices)) for names in work.units()])
            for number, hidden in enumerate(states):
                states[number] = decoder.run(index, hidden)
        report(index + 1, decoder.depth)


def install(layer: nn.Module, index: int, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Let linear layers of a loaded decoder layer have other weights, by their names in the checkpoint."""
    for name, weight in weights.items():
        _linear(layer, index, name).weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)


def _linear(layer: nn.Module, index: int, name: str) -> nn.Linear:
    module = layer.get_submodule(name.removeprefix(f"model.layers.{index}."))
    assert isinstance(module, nn.Linear)
    return module


class _DecoderLayer:
    """A loaded decoder layer, whose linear layers become rounded ones."""

    def __init__(self, decoder: Decoder, index: int, layer: nn.Module, states: list[Tensor]) -> None:
        self._decoder = decoder
        self._index = index
        self._layer = layer
        self._states = states

    def units(self) -> list[tuple[str, ...]]:
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

    def round(
        self, names: tuple[str, ...], method: Method, choices: tuple[int, ...], measure: bool
    ) -> tuple[Unit, dict[int, list[QuantizedLinear]]]:
        """Round a unit to each of the bits, and go on with what the fewest bits give."""
        modules = [self._module(name) for name in names]
        hessian = self._hessian(modules[0], names)
        weight = torch.cat([module.weight for module in modules])
        exact = [self._run(hidden) for hidden in self._states[:_PROBES]] if measure else []
        results: dict[int, list[QuantizedLinear]] = {}
        losses: dict[int, float] = {}
        for bits in sorted(choices, reverse=True):  # the fewest come last and stay
            statistics = hessian if bits == min(choices) else hessian.clone()
            rounded = quantize(weight, statistics, replace(method, bits=bits))
            results[bits] = rounded.split([module.out_features for module in modules])
            install(
                self._layer,
                self._index,
                dict(zip(names, (part.dequantize() for part in results[bits]), strict=True)),
            )
            if measure:
                losses[bits] = self._loss(exact)
        sizes = {bits: sum(part.to_packed().nbytes for part in parts) for bits, parts in results.items()}
        return Unit(names, losses, sizes), results

    def _hessian(self, module: nn.Linear, names: tuple[str, ...]) -> Tensor:
        """XᵀX of a linear layer's inputs over the calibration text; the layers behind it are not computed."""
        hessian = Hessian(module.in_features)
        with _stopping_before(module, hessian.add):
            for hidden in self._states:
                with suppress(_ReachedError):
                    self._run(hidden)
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
    """The computation has come to the layer whose inputs were wanted."""


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
