"""The transformer families that the native engine computes, one readable file each.

A family's module has `load(ops, weights) -> Model`, `layers(ops, model, ids, rows, rotary) -> x` and
`head(ops, model, x) -> logits`, where `ops` is a backend of `edgereason.kernels` and `rows` says which sequence,
position and adapter each of the ids belongs to. Forward passes through `layers` are recorded and repeated where it
computes with `ops` alone; where numpy has a part in it, it is called each time. It changes no array but through `ops`.

The engine reads `vocab_size`, `max_position_embeddings`, `num_hidden_layers`, `num_key_value_heads`, `head_dim` and
`ropes` of `Model.config`, and attaches adapters to `Model.projections`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edgereason.errors import BundleError
from edgereason.models import gemma2, gemma3, granite, llama, mistral, phi3, qwen2, qwen3, smollm3

FAMILIES: dict[str, ModuleType] = {
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
    "granite": granite,
    "llama": llama,
    "mistral": mistral,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "smollm3": smollm3,
}
"""From the `model_type` of a `config.json` to the family's module."""


def family(config: dict[str, Any]) -> ModuleType:
    """The module of a model's family.

    Raises:
        BundleError: none of ours.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise BundleError(
            f"config.json names the architecture {kind!r}, which the native engine does not compute.",
            f"It computes {', '.join(sorted(FAMILIES))}. Export with --format gguf or onnx instead.",
        )
    return FAMILIES[kind]
