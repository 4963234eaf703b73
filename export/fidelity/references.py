"""The reference of a stage, and the weights of each rung between it and the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel

from edgereason.bundle import Bundle
from edgereason.errors import BundleError
from edgereason.export.fidelity.evidence import Evidence, of_merging
from edgereason.export.fidelity.exact_rungs import PROBES, turn_end
from edgereason.export.fidelity.layerwise_model import LayerwiseModel
from edgereason.export.fidelity.readback.model_files import ModelFile, open_model_file
from edgereason.export.fidelity.reference_model import (
    Float32,
    ReferenceModel,
    Weight,
    parameters,
    resident_memory_needed,
    uninitialized_model,
)
from edgereason.export.inputs import skeleton
from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.base_model import Base
from edgereason.export.inputs.merge import merge
from edgereason.export.inputs.merged_weights import MergedWeights
from edgereason.export.inputs.quiet_transformers import quiet_transformers
from edgereason.export.inputs.tokenizer_files import file_tokenizer, find_tokenizer, warn_of_differences
from edgereason.files import read_json
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class StageReference:
    """A stage's reference.

    Attributes:
        parameters: The number of parameters.
        context: Maximum tokens of a sequence.
        prompt: The adapter's prompt.
        tokenizer: transformers' tokenizer, as in the adapter's training.
        stops: The reference's stop tokens.
        open: Returns the reference model, ready for forward passes.
        empty: Returns a model to fill with the weights of each rung.
        rungs: The weights of each rung between the reference and the engine, by the rung's name.
        stored: The model in the bundle.
        why_merged: Looks for the cause where the rung `merged` loses something.
    """

    parameters: int
    context: int
    prompt: Prompt
    tokenizer: Any
    stops: frozenset[int]
    open: Callable[[], ReferenceModel]
    empty: Callable[[], ReferenceModel]
    rungs: Mapping[str, Weight]
    stored: ModelFile
    why_merged: Callable[[], Evidence | None] = lambda: None


@dataclass(frozen=True)
class StageSource:
    """What a stage was made from.

    Attributes:
        base: Its base.
        adapter: Its adapter.
        merged: Both merged; None in the layout `shared`.
    """

    base: Base
    adapter: Adapter
    merged: MergedWeights | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's Hugging Face configuration."""
        return self.base.config if self.merged is None else self.merged.config


def reference_of_source(bundle: Bundle, stage: str, source: StageSource, memory: int | None = None) -> StageReference:
    """The reference of an export: base and unmerged adapter, computed by transformers and PEFT.

    Args:
        bundle: The bundle.
        stage: The stage.
        source: What it was made from.
        memory: Maximum bytes for the reference: a model that needs more is read layer by layer. None: all in memory.

    Raises:
        BundleError: the bundle's files cannot be read.
        ExportError: transformers cannot read the tokenizer.
    """
    base, adapter, config = source.base, source.adapter, source.config
    directory = find_tokenizer(adapter.path, base.path)
    warn_of_differences(directory, list(PROBES))
    tokenizer = file_tokenizer(directory)
    shapes = _shapes(config)
    stored = open_model_file(bundle.format, bundle.model(stage), shapes)
    rungs: dict[str, Weight] = {}
    # In the layout `shared` the base's weights are stored, and the bundle's own adapter is applied on each rung.
    weights = merge(base) if source.merged is None else source.merged
    extrapolated = adapter.extrapolation is not None
    if source.merged is not None and not extrapolated:
        rungs["merged"] = weights.__getitem__
    if bundle.format != "onnx" or bundle.quantization["bits"] == 16:  # it stores float32 wherever it does not quantize
        rungs["stored"] = lambda name: in_16_bits(weights[name])
    rungs["quantized"] = stored.weight
    layerwise = _is_layerwise(shapes, memory)

    def open_reference() -> ReferenceModel:
        if extrapolated:
            return _filled(_empty(config, None, layerwise), weights.__getitem__)
        return unmerged_layerwise_model(base, adapter, config) if layerwise else unmerged_model(base, adapter, config)

    # PEFT cannot read a GGUF adapter. What is wrong with one shows on the rung of the engine.
    on_rungs = adapter.path if bundle.format == "gguf" else bundle.path / stage
    return StageReference(
        parameters=_count(shapes),
        context=int(config["max_position_embeddings"]),
        prompt=adapter.prompt,
        tokenizer=tokenizer,
        stops=_stops(tokenizer, base),
        open=open_reference,
        empty=lambda: _empty(config, on_rungs if bundle.shared else None, layerwise),
        rungs=rungs,
        stored=stored,
        why_merged=partial(of_merging, source),
    )


def reference_of_bundle(bundle: Bundle, stage: str, memory: int | None = None) -> StageReference:
    """The reference without base and adapters: the weights in the bundle's own files, computed by transformers.

    Args:
        bundle, stage, memory: As `reference_of_source`.

    Raises:
        BundleError: the bundle's files cannot be read, or it does not bring the model's configuration.
    """
    path = bundle.model(stage) / "config.json"
    if not path.is_file():
        raise BundleError(f"{path} is missing.", "Export the bundle again, or verify it --against its base.")
    config = read_json(path)
    shapes = _shapes(config)
    stored = open_model_file(bundle.format, bundle.model(stage), shapes)

    def open_model() -> ReferenceModel:
        adapter = bundle.path / stage if bundle.shared else None
        return _filled(_empty(config, adapter, _is_layerwise(shapes, memory)), stored.weight)

    return StageReference(
        parameters=_count(shapes),
        context=int(config["max_position_embeddings"]),
        prompt=bundle.stages[stage].prompt,
        tokenizer=file_tokenizer(bundle.path / stage),
        stops=Tokenizer(bundle.path / stage).stop_ids().union(*stored.end_tokens().values()),
        open=open_model,
        empty=open_model,
        rungs={},
        stored=stored,
    )


def in_16_bits(weight: Float32) -> Float32:
    """A weight as formats of 16 bits store it: matrices in float16, vectors in float32."""
    if weight.ndim < 2:
        return weight
    with np.errstate(over="ignore"):
        return weight.astype(np.float16).astype(np.float32)


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in parameters(uninitialized_model(config)).items()}


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def _is_layerwise(shapes: Mapping[str, tuple[int, ...]], memory: int | None) -> bool:
    return memory is not None and resident_memory_needed(_count(shapes)) > memory


def _empty(config: Mapping[str, Any], adapter: Path | None, layerwise: bool) -> ReferenceModel:
    """A model to fill with a bundle's weights; in the layout `shared` with a PEFT adapter on it."""
    model = skeleton.placeholder_model(config) if layerwise else uninitialized_model(config)
    if adapter is not None:
        with quiet_transformers():
            model = PeftModel.from_pretrained(model, adapter, torch_device="cpu").float().eval()
    return LayerwiseModel(model) if layerwise else ReferenceModel(model)


def _filled(model: ReferenceModel, weight: Weight) -> ReferenceModel:
    """A model with these weights: those that no adapter can express, such as extrapolated ones, are a reference."""
    model.fill(weight)
    return model


def unmerged_model(base: Base, adapter: Adapter, config: Mapping[str, Any]) -> ReferenceModel:
    """Base and unmerged adapter in memory; `config` has the vocabulary of both."""
    quantized = "quantization_config" in base.config
    model = _filled(_empty(base.config, None, False), base.read).model if quantized else _load(base)
    with quiet_transformers():
        if model.get_input_embeddings().weight.shape[0] != config["vocab_size"]:
            model.resize_token_embeddings(config["vocab_size"], mean_resizing=False)
        if adapter.blend:
            return ReferenceModel(skeleton.build_peft_model(model, adapter))
        return ReferenceModel(PeftModel.from_pretrained(model, adapter.path, torch_device="cpu").eval())


def unmerged_layerwise_model(base: Base, adapter: Adapter, config: Mapping[str, Any]) -> ReferenceModel:
    """Base and unmerged adapter, with the base's weights read layer by layer."""
    # What is tied is so in the base, even where merging both unties it.
    values = {**base.config, "vocab_size": config["vocab_size"]}
    parts = skeleton.Skeleton(values, adapter, base.tied_in_name_only)
    return LayerwiseModel(parts.model, lambda name: parts.stored(name, base.read))


def _load(base: Base) -> Any:
    with quiet_transformers():
        return transformers.AutoModelForCausalLM.from_pretrained(
            base.path, dtype=torch.float32, attn_implementation="eager", local_files_only=True, use_safetensors=True
        )


def _stops(tokenizer: Any, base: Base) -> frozenset[int]:
    """The stop tokens in transformers: the tokenizer's, a turn's end, and those of the base's configuration files."""
    ids = {tokenizer.eos_token_id, turn_end(tokenizer)} - {None}
    for name in ("config.json", "generation_config.json"):
        if (base.path / name).is_file():
            value = read_json(base.path / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else {value} - {None})
    return frozenset(int(each) for each in ids)
