"""The importance matrix for llama.cpp's quantizer: how much each input column of a matrix matters.

A rounding error in a column is multiplied by that column's input, so that its square is weighted by the mean square of
that input on calibration text (https://github.com/ggml-org/llama.cpp/pull/4861).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgereason.errors import ExportError
from edgereason.export.gguf.families import GGUF_FAMILIES, tensor_name
from edgereason.export.gguf.ggml_types import Importance
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.progress_callbacks import StepProgress, part_of, silent
from edgereason.export.quantization.decoder_layers import DecoderLayers

MAX_IMPORTANCE_TOKENS = 8192
"""Maximum tokens of calibration text; a mean of squares has converged by then."""


def measure_importance(
    weights: MergedWeights, sequences: list[list[int]], progress: StepProgress = silent
) -> Importance:
    """The mean square of every linear layer's inputs, computed one decoder layer at a time.

    Memory holds one layer's weights, and the hidden states of the text: 4 bytes per token and element.

    Args:
        weights: The model in full precision.
        sequences: Text as token ids, each with a forward pass of its own; at most `MAX_IMPORTANCE_TOKENS` count.
        progress: Called after each sequence in each decoder layer.

    Returns:
        By GGUF tensor name, float32 `[inputs]`.

    Raises:
        ExportError: there is no text, or the model's hidden states are not finite.
    """
    decoder = DecoderLayers(weights.config, weights)
    states = decoder.embed(_first(sequences))
    if not states:
        raise ExportError("The calibration text is empty.", "Give a file with text, or leave --calibration-text out.")
    family = GGUF_FAMILIES[weights.config["model_type"]]
    found: dict[str, Any] = {}
    for index in range(decoder.depth):
        with decoder.layer(index) as layer:
            sums = {name: _Squares(module) for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
            for number, hidden in enumerate(states):
                states[number] = decoder.run(index, hidden)
                part_of(progress, index, decoder.depth)(number + 1, len(states))
        for name, squares in sums.items():
            stored = tensor_name(family, decoder.depth, f"model.layers.{index}.{name}.weight")
            found[str(stored)] = squares.mean()
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ExportError(f"The inputs of {name} are not finite on the calibration text.", "Check the model.")
    return found


def _first(sequences: list[list[int]]) -> list[list[int]]:
    kept, room = [], MAX_IMPORTANCE_TOKENS
    for ids in sequences:
        if room and ids:
            kept.append(ids[:room])
            room -= len(kept[-1])
    return kept


class _Squares:
    """The sum of the squares of a linear layer's inputs."""

    def __init__(self, module: nn.Linear) -> None:
        self._sum = torch.zeros(module.in_features, dtype=torch.float64)
        self._rows = 0
        self._handle = module.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].reshape(-1, self._sum.numel()).double()
        self._sum += rows.square().sum(0)
        self._rows += rows.shape[0]

    def mean(self) -> Any:
        """The mean square, float32 `[inputs]`; ends the observation."""
        self._handle.remove()
        return (self._sum / self._rows).float().numpy()
