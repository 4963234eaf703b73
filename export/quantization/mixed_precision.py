"""Which layers get 8 bits where a size or a fidelity is asked for, and 4 bits are the rule.

Layers of one input go together. First come those whose rounding to 4 bits loses most, per byte that 8 bits cost more;
their losses were measured while they were rounded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgereason.errors import ExportError
from edgereason.export.quantization.decoder_layers import Decoder
from edgereason.export.quantization.layer_store import LayerStore, Unit
from edgereason.export.quantization.layerwise import install

_PROBES = 32
"""Calibration sequences on which divergence is measured."""

Report = Callable[[str, int, int], None]


def choose_for_size(store: LayerStore, depth: int, spare: int) -> dict[str, int]:
    """The bits of the layers that get 8, as far as `spare` bytes go.

    Raises:
        ExportError: not even 4 bits everywhere are small enough.
    """
    if spare < 0:
        raise ExportError(
            f"With 4 bits in every layer the model is {-spare:,} bytes larger than the target size.",
            "Give a larger --target-size, or a larger --group-size.",
        )
    chosen: dict[str, int] = {}
    for unit in _by_gain(store, depth):
        if _cost(unit) <= spare:
            spare -= _cost(unit)
            chosen.update(dict.fromkeys(unit.names, 8))
    return chosen


def choose_for_divergence(
    store: LayerStore, decoder: Decoder, sequences: list[list[int]], target: float, report: Report
) -> dict[str, int]:
    """The bits of the layers that get 8: as few as bring the mean divergence to `target` nats per token.

    The number of layers is found by halving, since each try computes the model once; embeddings and output head are in
    full precision meanwhile.

    Raises:
        ExportError: 8 bits everywhere diverge more than that.
    """
    probes = sequences[:_PROBES]
    units = _by_gain(store, decoder.depth)
    exact = _final_states(decoder, probes, None, {})
    tries = len(units).bit_length() + 1

    def divergence(count: int) -> float:
        bits = {name: 8 for unit in units[:count] for name in unit.names}
        return _divergence(decoder, exact, _final_states(decoder, probes, store, bits))

    if (best := divergence(len(units))) > target:
        raise ExportError(
            f"With 8 bits in every layer the divergence is {best:.2g} nats per token, above the target of {target:g}.",
            "Give a larger --target-kl, or export with --bits 16.",
        )
    low, high, done = 0, len(units), 1
    while low < high:
        report("choosing bits", done, max(tries, done))
        middle = (low + high) // 2
        low, high = (low, middle) if divergence(middle) <= target else (middle + 1, high)
        done += 1
    report("choosing bits", tries, tries)
    return {name: 8 for unit in units[:high] for name in unit.names}


def _by_gain(store: LayerStore, depth: int) -> list[Unit]:
    """All units, the ones that gain most per byte first."""
    units = [unit for index in range(depth) for unit in store.units(index)]
    return sorted(units, key=lambda unit: (unit.losses[8] - unit.losses[4]) / _cost(unit))


def _cost(unit: Unit) -> int:
    return unit.bytes[8] - unit.bytes[4]


def _final_states(
    decoder: Decoder, sequences: list[list[int]], store: LayerStore | None, bits: dict[str, int]
) -> list[Tensor]:
    """What the last layer gives, in full precision or with a store's weights."""
    states = decoder.embed(sequences)
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            if store is not None:
                weights = store.weights(index, bits)
                install(layer, index, {name: weight.dequantize() for name, weight in weights.items()})
            for number, hidden in enumerate(states):
                states[number] = decoder.run(index, hidden)
    return states


def _divergence(decoder: Decoder, exact: list[Tensor], found: list[Tensor]) -> float:
    """The mean Kullback-Leibler divergence of the next token's distribution, in nats."""
    pairs = [state for pair in zip(exact, found, strict=True) for state in pair]
    logits = decoder.logits(pairs)
    total, count = 0.0, 0
    for expected in logits:
        p, q = expected.log_softmax(-1), next(logits).log_softmax(-1)
        total += float(torch.sum(p.exp() * (p - q)))
        count += len(p)
    return total / count
