"""Which input columns of a model's matrices matter: the importance matrix for llama.cpp's quantizer.

A rounding error in a column is multiplied by what comes in there, so that its square counts as much as the mean square
of that input on text of the model's kind (https://github.com/ggml-org/llama.cpp/pull/4861).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgereason.errors import ExportError
from edgereason.export.gguf.families import FAMILIES, tensor_name
from edgereason.export.gguf.quantize import Importance
from edgereason.export.inputs.merge import MergedWeights
from edgereason.export.quantization.decoder_layers import Decoder

MOST_TOKENS = 8192
"""Of calibration text; a mean of squares has settled by then."""

Report = Callable[[int, int], None]
"""Called with the layers that are done and their number."""


def measure_importance(weights: MergedWeights, sequences: list[list[int]], report: Report | None = None) -> Importance:
    """The mean square of every linear layer's inputs, computed one decoder layer at a time.

    Memory holds one layer's weights, and the hidden states of the text: 4 bytes per token and element.

    Args:
        weights: The model in full precision.
        sequences: Text as ids, each piece run on its own; the first `MOST_TOKENS` tokens count.
        report: Called after each decoder layer.

    Returns:
        By GGUF tensor name, float32 `[inputs]`.

    Raises:
        ExportError: there is no text, or the model's hidden states are not finite.
    """
    decoder = Decoder(weights.config, weights)
    states = decoder.embed(_first(sequences))
    if not states:
        raise ExportError("The calibration text is empty.", "Give a file with text, or leave --calibration out.")
    family = FAMILIES[weights.config["model_type"]]
    found: dict[str, Any] = {}
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            sums = {name: _Squares(module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
            states = [decoder.run(index, hidden) for hidden in states]
        for name, squares in sums.items():
            stored = tensor_name(family, decoder.depth, f"model.layers.{index}.{name}.weight")
            found[str(stored)] = squares.mean()
        if report:
            report(index + 1, decoder.depth)
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ExportError(f"The inputs of {name} are not finite on the calibration text.", "Check the model.")
    return found


def _first(sequences: list[list[int]]) -> list[list[int]]:
    kept, room = [], MOST_TOKENS
    for ids in sequences:
        if room and ids:
            kept.append(ids[:room])
            room -= len(kept[-1])
    return kept


class _Squares:
    """Adds up the squares of a linear layer's inputs for as long as it computes."""

    def __init__(self, module: nn.Linear) -> None:
        self._sum = torch.zeros(module.in_features, dtype=torch.float64)
        self._rows = 0
        self._handle = module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].reshape(-1, self._sum.numel()).double()
        self._sum += rows.square().sum(0)
        self._rows += rows.shape[0]

    def mean(self) -> Any:
        """Float32 `[inputs]`; the layer computes unseen from here on."""
        self._handle.remove()
        return (self._sum / self._rows).float().numpy()
