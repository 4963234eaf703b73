"""Base + adapters -> one set of weights, merged in float32 with PEFT, one tensor at a time."""

from __future__ import annotations

import numpy as np

from edgereason.errors import ExportError
from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.base_model import Base
from edgereason.export.inputs.export_errors import library_errors
from edgereason.export.inputs.merged_weights import Float, Float32, MergedWeights
from edgereason.export.inputs.pairing import check_architecture, vocabulary_size
from edgereason.export.inputs.tokenizer_files import find_tokenizer, stop_tokens


def merge(base: Base, adapter: Adapter | None = None) -> MergedWeights:
    """Merge an adapter into its base, lazily: only one weight of the base is in memory.

    Without an adapter, the base's own weights.

    Each LoRA product is added in float32 whatever the base is stored in: adding it to 16-bit or quantized weights loses
    most of a small adapter (QLoRA, arXiv 2305.14314, discusses the same for training).

    Where the LM head is tied to the embeddings and the adapter changes only one of the two, the merged model is untied,
    as base and unmerged adapter compute it.

    Raises:
        ExportError: the adapter does not fit the base; from a tensor: a value is not finite.
    """
    if adapter is None or adapter.extrapolation is None:
        return _merge(base, adapter)
    alpha, reference = adapter.extrapolation.alpha, _merge(base, adapter.extrapolation.reference)
    trained = _merge(base, adapter)
    if trained.shapes != reference.shapes:
        raise ExportError(
            f"{adapter.path} and {adapter.extrapolation.reference.path} have different weights: one of them has "
            "another vocabulary, or an LM head of its own.",
            "Extrapolate from an adapter of the same kind, such as the one that training began with.",
        )

    def compute(name: str) -> Float32:
        here, there = trained[name], reference[name]
        # theta + alpha (theta - reference), eq. 2 of arXiv 2404.16792; exact where the two are the same.
        beyond: Float32 = here + np.float32(alpha) * (here - there)
        return beyond

    return MergedWeights(trained.config, trained.shapes, trained.tokenizer, trained.base, compute)


def _merge(base: Base, adapter: Adapter | None) -> MergedWeights:
    from edgereason.export.inputs.skeleton import Skeleton

    plain = {key: value for key, value in base.config.items() if key != "quantization_config"}
    config = {**plain, "vocab_size": vocabulary_size(base, adapter)}
    with library_errors(
        f"Building the model of {base.path / 'config.json'}",
        "Give base and adapter as they are after training, with the versions of transformers and PEFT that made them.",
    ):
        skeleton = Skeleton(config, adapter, base.tied_in_name_only)
    check_architecture(base, skeleton)

    def read(name: str) -> Float32:
        return skeleton.stored(name, base.read)

    def compute(name: str) -> Float32:
        return skeleton.merged(name, read)

    def same(name: str, source: str) -> bool:
        if not skeleton.changes(name):
            # Embeddings that training has replaced are the tied LM head as well.
            return not skeleton.changes(source) or np.array_equal(read(name), compute(source))
        return np.array_equal(compute(name), compute(source))

    def as_stored(name: str) -> Float | None:
        return None if name in skeleton.tied or skeleton.changes(name) else base.mapped(name)

    tied = {name for name, source in skeleton.tied.items() if same(name, source)}
    shapes = {name: shape for name, shape in skeleton.shapes.items() if name not in tied}
    if skeleton.tied and not tied:
        config["tie_word_embeddings"] = False
    tokenizer = find_tokenizer(*(each.path for each in (adapter, base) if each))
    config["eos_token_id"] = stop_tokens(config.get("eos_token_id"), tokenizer)
    return MergedWeights(config, shapes, tokenizer, base.path, compute, as_stored)
