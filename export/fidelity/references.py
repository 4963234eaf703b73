"""What a stage of a bundle is held against, and the steps that lie between it and the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel

from edgereason.bundle import Bundle
from edgereason.errors import BundleError, ExportError
from edgereason.export.fidelity.layerwise_model import StreamedWitness
from edgereason.export.fidelity.readback.readback import ModelFile, open_model_file
from edgereason.export.fidelity.reference_model import (
    Float32,
    Weight,
    Witness,
    empty_model,
    memory_needed,
    parameters,
    quiet,
)
from edgereason.export.inputs import skeleton
from edgereason.export.inputs.base_model import Adapter, Base
from edgereason.export.inputs.merge import MergedWeights, find_tokenizer, merge
from edgereason.files import read_json
from edgereason.text.prompts import Prompt
from edgereason.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Origin:
    """One stage's reference.

    Attributes:
        parameters: How many numbers the model is made of.
        context: Most tokens of a text.
        prompt: The prompt that belongs to the adapter.
        tokenizer: transformers' tokenizer, as the adapter was trained with.
        stops: The tokens that end the reference's texts.
        open: Makes the reference model: in float32, ready to compute.
        empty: Makes the model that is filled with the weights of each rung.
        rungs: The weights of each step between the reference and the engine, by the rung's name.
        stored: The model in the bundle.
    """

    parameters: int
    context: int
    prompt: Prompt
    tokenizer: Any
    stops: frozenset[int]
    open: Callable[[], Witness]
    empty: Callable[[], Witness]
    rungs: Mapping[str, Weight]
    stored: ModelFile


@dataclass(frozen=True)
class Source:
    """What a stage was made from.

    Attributes:
        base: Its base.
        adapter: Its adapter.
        merged: Both merged; None where the bundle keeps the adapter beside the base.
    """

    base: Base
    adapter: Adapter
    merged: MergedWeights | None

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's Hugging Face configuration."""
        return self.base.config if self.merged is None else self.merged.config


def trained(bundle: Bundle, stage: str, source: Source, memory: int | None = None) -> Origin:
    """The reference that an export is held against: base and unmerged adapter, computed by transformers and PEFT.

    Args:
        bundle: The bundle.
        stage: Of it.
        source: What the stage was made from.
        memory: Bytes that computing may take: a model that takes more is streamed. None for a model in memory.

    Raises:
        BundleError: the bundle's files cannot be read.
        ExportError: transformers cannot read the tokenizer.
    """
    base, adapter, config = source.base, source.adapter, source.config
    tokenizer = open_tokenizer(find_tokenizer(adapter.path, base.path))
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
    streamed = _is_streamed(shapes, memory)

    def open_reference() -> Witness:
        if extrapolated:
            return _filled(_empty(config, None, streamed), weights.__getitem__)
        return unmerged_streamed(base, adapter, config) if streamed else unmerged(base, adapter, config)

    # PEFT cannot read a GGUF adapter. What is wrong with one shows on the rung of the engine.
    on_rungs = adapter.path if bundle.format == "gguf" else bundle.path / stage
    return Origin(
        parameters=_count(shapes),
        context=int(config["max_position_embeddings"]),
        prompt=adapter.prompt,
        tokenizer=tokenizer,
        stops=_stops(tokenizer, base),
        open=open_reference,
        empty=lambda: _empty(config, on_rungs if bundle.shared else None, streamed),
        rungs=rungs,
        stored=stored,
    )


def itself(bundle: Bundle, stage: str, memory: int | None = None) -> Origin:
    """The reference where there is no other: the weights in the bundle's own files, computed by transformers.

    Args:
        bundle, stage, memory: As `trained`.

    Raises:
        BundleError: the bundle's files cannot be read, or it does not bring the model's configuration.
    """
    path = bundle.model(stage) / "config.json"
    if not path.is_file():
        raise BundleError(f"{path} is missing.", "Export the bundle again, or verify it --against its base.")
    config = read_json(path)
    shapes = _shapes(config)
    stored = open_model_file(bundle.format, bundle.model(stage), shapes)

    def open_model() -> Witness:
        adapter = bundle.path / stage if bundle.shared else None
        return _filled(_empty(config, adapter, _is_streamed(shapes, memory)), stored.weight)

    return Origin(
        parameters=_count(shapes),
        context=int(config["max_position_embeddings"]),
        prompt=bundle.stages[stage].prompt,
        tokenizer=open_tokenizer(bundle.path / stage),
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


def open_tokenizer(directory: Path) -> Any:
    """transformers' tokenizer.

    Raises:
        ExportError: transformers cannot read it.
    """
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise every kind
        raise ExportError(
            f"transformers cannot read the tokenizer in {directory}: {str(error).strip().splitlines()[0]}",
            "Save it there again with save_pretrained().",
        ) from error


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(parameter.shape) for name, parameter in parameters(empty_model(config)).items()}


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def _is_streamed(shapes: Mapping[str, tuple[int, ...]], memory: int | None) -> bool:
    return memory is not None and memory_needed(_count(shapes)) > memory


def _empty(config: Mapping[str, Any], adapter: Path | None, streamed: bool) -> Witness:
    """A model for a bundle's weights; in the layout `shared` with an adapter in PEFT's form."""
    model = skeleton.empty_model(config) if streamed else empty_model(config)
    if adapter is not None:
        with quiet():
            model = PeftModel.from_pretrained(model, adapter, torch_device="cpu").float().eval()
    return StreamedWitness(model) if streamed else Witness(model)


def _filled(model: Witness, weight: Weight) -> Witness:
    """Weights that no adapter can say, such as extrapolated ones, are their own reference."""
    model.fill(weight)
    return model


def unmerged(base: Base, adapter: Adapter, config: Mapping[str, Any]) -> Witness:
    """Base and adapter, not merged, in memory; `config` has the vocabulary of both."""
    quantized = "quantization_config" in base.config
    model = _filled(_empty(base.config, None, False), base.read).model if quantized else _load(base)
    with quiet():
        if model.get_input_embeddings().weight.shape[0] != config["vocab_size"]:
            model.resize_token_embeddings(config["vocab_size"], mean_resizing=False)
        if adapter.blend:
            return Witness(skeleton.attach(model, adapter))
        return Witness(PeftModel.from_pretrained(model, adapter.path, torch_device="cpu").eval())


def unmerged_streamed(base: Base, adapter: Adapter, config: Mapping[str, Any]) -> Witness:
    """The same, with the base's weights read layer by layer."""
    # What is tied is so in the base, even where merging both unties it.
    parts = skeleton.Skeleton({**base.config, "vocab_size": config["vocab_size"]}, adapter)
    return StreamedWitness(parts.model, lambda name: parts.stored(name, base.read))


def _load(base: Base) -> Any:
    with quiet():
        return transformers.AutoModelForCausalLM.from_pretrained(
            base.path, dtype=torch.float32, attn_implementation="eager", local_files_only=True, use_safetensors=True
        )


def _stops(tokenizer: Any, base: Base) -> frozenset[int]:
    """Every token that ends a text in transformers: the tokenizer's, and those of the base's settings."""
    ids = {tokenizer.eos_token_id} - {None}
    for name in ("config.json", "generation_config.json"):
        if (base.path / name).is_file():
            value = read_json(base.path / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else {value} - {None})
    return frozenset(int(each) for each in ids)
