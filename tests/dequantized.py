"""The model whose weights a native directory has after rounding, for transformers to compute."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.numpy import load_file
from transformers import PreTrainedModel

from edgereason.checkpoints.weights import FUSED, Weights
from edgereason.kernels.packing import PackedWeight


def load_dequantized(model: PreTrainedModel, directory: Path) -> None:
    """Replace a model's weights by the rounded ones of a native directory."""
    tensors = load_file(directory / "model.safetensors")
    state = model.state_dict()
    for name, shape in Weights(directory).packed.items():
        arrays = [tensors[f"{name}.{part}"] for part in ("qweight", "scales")]
        weight = torch.from_numpy(PackedWeight(*arrays, None, **shape).dequantize())
        prefix, _, last = name.rpartition(".")
        parts = (last,) if f"{name}.weight" in state else FUSED[last]  # some families have them fused themselves
        targets = [f"{prefix}.{part}.weight".lstrip(".") for part in parts]
        for target, rows in zip(targets, weight.split([len(state[target]) for target in targets]), strict=True):
            state[target].copy_(rows)
