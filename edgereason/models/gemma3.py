"""Gemma 3, text: Gemma 2's block with norms of q and k instead of caps, and rotary embeddings of two kinds.

Gemma 3, arXiv 2503.19786. Layers with a window have the local embedding, the others the global one. Of the models
that see images as well, the part that reads and writes text.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from edgereason.checkpoints.weights import Weights
from edgereason.errors import BundleError
from edgereason.models.config import integer, layer_count, layer_types, windows
from edgereason.models.gemma2 import Model, build, config, head, layers
from edgereason.models.rotary_embedding import Rope

__all__ = ["head", "layers", "load"]

# What configurations leave out where it is as the first models had it.
_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
# Where the text model's weights lie in one that sees images, as transformers 4 and 5 name them.
_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
}


def load(ops: ModuleType, weights: Weights) -> Model:
    """See `edgereason.models.llama.load`."""
    values = weights.config
    if "text_config" in values:
        if not isinstance(values["text_config"], dict):
            raise BundleError("config.json: its text_config is no object.")
        values = values["text_config"]
        for prefix, ours in _PREFIXES.items():
            weights = weights.renamed(prefix, ours)
    values = {**_DEFAULTS, **values}
    count, pattern = layer_count(values), integer(values, "sliding_window_pattern", 6)
    sliding = layer_types(values, [(index + 1) % pattern != 0 for index in range(count)])
    c = config(
        values,
        qk_norm=True,
        ropes=_ropes(values),
        layer_ropes=tuple(int(slides) for slides in sliding),
        windows=windows(values, sliding),
    )
    return build(ops, weights, c)


def _ropes(values: dict[str, Any]) -> tuple[Rope, Rope]:
    """The global and the local embedding."""
    head_dim = integer(values, "head_dim")
    if "sliding_attention" in (values.get("rope_parameters") or {}):
        full, sliding = "full_attention", "sliding_attention"
        return Rope.from_json(values, head_dim, full), Rope.from_json(values, head_dim, sliding)
    local = {"rope_theta": values.get("rope_local_base_freq", 1e4)}
    return Rope.from_json(values, head_dim), Rope.from_json(local, head_dim)
