"""Mixed precision: which layers get 8 bits instead of 4, for a target size or a target divergence.

Layers of one input go together. First come those that lose most by 4 bits, per byte that 8 bits cost more; their losses
were measured while they were quantized.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgereason.errors import ExportError
from edgereason.export.progress_callbacks import Progress, StepProgress, part_of
from edgereason.export.quantization.decoder_layers import DecoderLayers
from edgereason.export.quantization.layer_store import LayerGroup, LayerStore
from edgereason.export.quantization.layerwise import install

_PROBES = 32
"""CalibrationText sequences on which divergence is measured."""


def choose_for_size(store: LayerStore, depth: int, spare: int) -> dict[str, int]:
    """The layers that get 8 bits, within a budget of `spare` bytes: by their names, 8.

    Raises:
        ExportError: not even 4 bits everywhere are small enough.
    """
    if spare < 0:
        raise ExportError(
            f"With 4 bits in every layer, the model is {-spare:,} bytes larger than the target size.",
            "Give a larger --target-size, or a larger --group-size.",
        )
    chosen: dict[str, int] = {}
    for group in _by_gain(store, depth):
        if _cost(group) <= spare:
            spare -= _cost(group)
            chosen.update(dict.fromkeys(group.names, 8))
    return chosen


def choose_for_divergence(
    store: LayerStore, decoder: DecoderLayers, sequences: list[list[int]], target: float, progress: Progress
) -> dict[str, int]:
    """The layers that get 8 bits, as few as bring the mean divergence to `target` nats per token: by their names, 8.

    The number of layers is found by bisection, since each try is a forward pass of the model; embeddings and LM head
    stay in full precision meanwhile.

    Raises:
        ExportError: 8 bits everywhere diverge more than that.
    """
    probes = sequences[:_PROBES]
    groups = _by_gain(store, decoder.depth)
    tries = len(groups).bit_length() + 2
    done = 0

    def attempt() -> StepProgress:
        return part_of(lambda *step: progress("choosing bits", *step), min(done, tries - 1), tries)

    exact = _final_states(decoder, probes, None, {}, attempt())

    def divergence(count: int) -> float:
        nonlocal done
        done += 1
        bits = {name: 8 for group in groups[:count] for name in group.names}
        return _divergence(decoder, exact, _final_states(decoder, probes, store, bits, attempt()))

    if (best := divergence(len(groups))) > target:
        raise ExportError(
            f"With 8 bits in every layer, the divergence is {best:.2g} nats per token, above the target of {target:g}.",
            "Give a larger --target-kl, or export with --bits 16.",
        )
    low, high = 0, len(groups)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if divergence(middle) <= target else (middle + 1, high)
    progress("choosing bits", tries, tries)
    return {name: 8 for group in groups[:high] for name in group.names}


def _by_gain(store: LayerStore, depth: int) -> list[LayerGroup]:
    """All groups of layers, those that gain most per byte first."""
    groups = [group for index in range(depth) for group in store.groups(index)]
    return sorted(groups, key=lambda group: (group.losses[8] - group.losses[4]) / _cost(group))


def _cost(group: LayerGroup) -> int:
    return group.bytes[8] - group.bytes[4]


def _final_states(
    decoder: DecoderLayers,
    sequences: list[list[int]],
    store: LayerStore | None,
    bits: dict[str, int],
    progress: StepProgress,
) -> list[Tensor]:
    """The outputs of the last decoder layer, in full precision or with a store's weights."""
    states = decoder.embed(sequences)
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            if store is not None:
                weights = store.weights(index, bits)
                install(layer, index, {name: weight.dequantize() for name, weight in weights.items()})
            for number, hidden in enumerate(states):
                states[number] = decoder.run(index, hidden)
        progress(index + 1, decoder.depth)
    return states


def _divergence(decoder: DecoderLayers, exact: list[Tensor], found: list[Tensor]) -> float:
    """The mean Kullback-Leibler divergence of the next token's distribution, in nats."""
    pairs = [state for pair in zip(exact, found, strict=True) for state in pair]
    logits = decoder.logits(pairs)
    total, count = 0.0, 0
    for expected in logits:
        p, q = expected.log_softmax(-1), next(logits).log_softmax(-1)
        total += float(torch.sum(p.exp() * (p - q)))
        count += len(p)
    return total / count
