"""PEFT's model of a base and its adapters, without the base's weights.

PEFT knows every kind of LoRA, but merges whole models in memory. Here it gets the base's architecture with placeholders
for weights (their shape, one number in memory), the adapters are loaded into it, and each layer gets its real weight
only while PEFT merges it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import transformers
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from edgereason.checkpoints.adapter_files import PEFT_PREFIX
from edgereason.errors import ExportError
from edgereason.export.inputs.adapter import Adapter
from edgereason.export.inputs.export_errors import last_line
from edgereason.export.inputs.quiet_transformers import quiet_transformers

Float32 = npt.NDArray[np.float32]
ReadWeight = Callable[[str], Float32]
"""Reads a weight of the base by its name."""


class Skeleton:
    """The architecture of a base, with adapters on it.

    Args:
        config: The base's Hugging Face configuration, with the vocabulary that the adapters have.
        adapter: The adapter, with those that are blended with it; None for the base alone.
        tied_in_name_only: Whether the model has an LM head of its own, though its config.json says that it is tied:
            PEFT goes by config.json, transformers by the weights.

    Attributes:
        shapes: Of every weight, by its name in the checkpoint, in the model's order.
        tied: By the name of a tied weight, the name of the weight that it is tied to.
        model: PEFT's model of both, or transformers' of the base alone; the base's weights are placeholders.

    Raises:
        ExportError: an adapter cannot be loaded into this architecture.
    """

    def __init__(self, config: Mapping[str, Any], adapter: Adapter | None, tied_in_name_only: bool = False) -> None:
        empty = placeholder_model(config)
        if tied_in_name_only:
            cast(Any, empty).config.tie_word_embeddings = True
        self.shapes, self.tied = _parameters(empty)
        self.model = build_peft_model(empty, adapter) if adapter else empty
        self._base: nn.Module = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        for name, source in self.tied.items():
            self._share(name, source)

    def changes(self, name: str) -> bool:
        """Whether the adapters change a weight, or bring it."""
        module, leaf = self._find(name)
        if isinstance(module, LoraLayer) and module.active_adapters[0] in _adapters_of(module):
            return leaf == "weight" or self._has_lora_bias(module) or self.brings(name)
        return isinstance(module, TrainableTokensWrapper) or self.brings(name)

    def brings(self, name: str) -> bool:
        """Whether the adapters have a weight of their own, in place of the base's."""
        module, leaf = self._find(name)
        return not _is_placeholder(getattr(_own(module), leaf))

    def brought_rows(self, name: str) -> frozenset[int]:
        """The rows that training has replaced one by one (PEFT's `trainable_token_indices`)."""
        module, _ = self._find(name)
        if isinstance(module, LoraLayer):  # PEFT puts it around the wrapper
            module = module.base_layer
        if not isinstance(module, TrainableTokensWrapper):
            return frozenset()
        tokens = module.token_adapter.token_indices
        return frozenset(row for adapter in module.active_adapters for row in tokens.get(adapter, ()))

    def merged(self, name: str, read: ReadWeight) -> Float32:
        """A weight with everything that the adapters do to it, float32.

        Args:
            name: Its name in the base's checkpoint.
            read: Reads a weight of the base; called only with the names of the layer's weights.

        Raises:
            ExportError: the merged weight is not finite.
        """
        if not self.changes(name):
            return read(name)
        module, leaf = self._find(name)
        prefix = name.removesuffix(leaf)
        if isinstance(module, LoraLayer) and leaf == "bias" and not self._has_lora_bias(module):
            return self.unmerged(name, read)
        if not isinstance(module, LoraLayer | TrainableTokensWrapper):
            return _to_numpy(getattr(_own(module), leaf))
        if isinstance(module, TrainableTokensWrapper):
            return _merge_layer(module.token_adapter, prefix, leaf, read)
        if not isinstance(module.base_layer, TrainableTokensWrapper):
            return _merge_layer(module, prefix, leaf, read)
        if any(module.use_dora.values()):
            raise ExportError(
                f"The adapter cannot be merged into {name}: it has DoRA and trained tokens of a tied table.",
                "Merge it with PEFT, and export the result.",
            )
        tokens = _merge_layer(module.base_layer.token_adapter, prefix, leaf, read)
        return tokens + _to_numpy(module.get_delta_weight(module.active_adapters[0]))

    def unmerged(self, name: str, read: ReadWeight) -> Float32:
        """A weight before merging: the base's, or what training has put in its place."""
        parameter = self._unmerged(name)
        return read(name) if _is_placeholder(parameter) else _to_numpy(cast(Tensor, parameter))

    def of_base(self, name: str) -> bool:
        """Whether a weight before merging is the base's."""
        return _is_placeholder(self._unmerged(name))

    def _unmerged(self, name: str) -> object:
        module, leaf = self._find(name)
        return getattr(module.original_module if isinstance(module, ModulesToSaveWrapper) else _own(module), leaf)

    def stored(self, name: str, read: ReadWeight) -> Float32:
        """As `unmerged`, for the name of any weight, tied ones included."""
        source = self.tied.get(name)
        weight = self.unmerged(source, read) if source else read(name)
        # The base lacks the rows of tokens that were added for training: the adapter replaces all of them.
        more = self.shapes[name][0] - len(weight)
        return np.pad(weight, [(0, more), *[(0, 0)] * (weight.ndim - 1)]) if more > 0 else weight

    def _share(self, name: str, source: str) -> None:
        """Give a weight what the adapter has brought under the other name of what both are tied to."""
        module, leaf = self._find(name)
        if self.of_base(source) and not isinstance(module, ModulesToSaveWrapper) and self.brings(name):
            _own(self._find(source)[0]).register_parameter(leaf, getattr(_own(module), leaf))

    @staticmethod
    def _has_lora_bias(layer: LoraLayer) -> bool:
        return bool(layer.lora_bias.get(layer.active_adapters[0], False))

    def _find(self, name: str) -> tuple[nn.Module, str]:
        path, _, leaf = name.rpartition(".")
        return self._base.get_submodule(path), leaf


def placeholder_model(config: Mapping[str, Any]) -> nn.Module:
    """transformers' model of a configuration in float32, complete but for its weights.

    Its weights are placeholders, of their shapes and one number each; tied ones are the same object.
    """
    values = {key: value for key, value in config.items() if key != "quantization_config"}
    parsed = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(values)
    with quiet_transformers(), init_empty_weights(include_buffers=False):
        # Only eager attention computes every family's scores as its paper has them (soft caps).
        model: Any = transformers.AutoModelForCausalLM.from_config(
            parsed, dtype=torch.float32, attn_implementation="eager"
        )
    model.tie_weights()
    placeholders: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in placeholders:
                placeholders[parameter] = _placeholder(parameter.shape)
            module.register_parameter(name, placeholders[parameter])
    empty: nn.Module = model.eval()
    return empty


def placeholders(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """The placeholders of a model: the modules that hold them, and their names there."""
    return [
        (holder, leaf, parameter)
        for holder in module.modules()
        for leaf, parameter in holder.named_parameters(recurse=False)
        if _is_placeholder(parameter)
    ]


def _placeholder(shape: torch.Size) -> nn.Parameter:
    return nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def _is_placeholder(parameter: object) -> bool:
    return not isinstance(parameter, Tensor) or not any(parameter.stride())


def build_peft_model(model: nn.Module, adapter: Adapter) -> PeftModel:
    """Put an adapter on transformers' model of its base, unmerged; blended ones as PEFT combines them.

    Args:
        model: In float32; its vocabulary has to be the adapter's. Weights that the adapter brings replace its own.
        adapter: What to put on it. An extrapolation is not applied: no adapter can express it.

    Raises:
        ExportError: it does not fit.
    """
    peft_model: PeftModel | None = None
    names = [f"adapter{index}" for index in range(len(adapter.parts))]
    with quiet_transformers():
        for name, part in zip(names, adapter.parts, strict=True):
            peft_model = _load(peft_model or model, name, part)
        assert peft_model is not None
        if adapter.blend:
            _blend(peft_model, names, adapter)
    return peft_model.eval()


def _load(model: nn.Module, name: str, adapter: Adapter) -> PeftModel:
    """Put one adapter on a model, or beside those that it has."""
    try:
        # How training was initialized does not matter any more, and may be costly to compute.
        config = LoraConfig.from_pretrained(str(adapter.path), inference_mode=True)
        config.init_lora_weights = True
        if isinstance(model, PeftModel):
            model.add_adapter(name, config, low_cpu_mem_usage=True)
        else:
            model = get_peft_model(model, config, adapter_name=name, low_cpu_mem_usage=True)
        tensors = {PEFT_PREFIX + key: torch.from_numpy(array) for key, array in adapter.read()}
        found = set_peft_model_state_dict(model, tensors, name, low_cpu_mem_usage=True)
    except KeyError as error:  # PEFT looks for it by its name in the file
        raise _lacking(adapter, str(error.args[0])) from error
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"{adapter.path} does not fit its base: {last_line(error)}",
            "Check that both are the ones it was trained with.",
        ) from error
    _check_loaded(model, name, adapter, found.unexpected_keys)
    return model


def _blend(model: PeftModel, names: list[str], adapter: Adapter) -> None:
    """Combine adapters, and make the result the active one."""
    blend = adapter.blend
    assert blend is not None
    try:
        with torch.random.fork_rng():
            torch.manual_seed(blend.seed)
            model.add_weighted_adapter(
                names, list(blend.weights), "blend", combination_type=blend.method, density=blend.density
            )
    except ValueError as error:
        raise ExportError(
            f"{', '.join(part.path.name for part in adapter.parts)} cannot be combined: {last_line(error)}",
            "--combine cat combines adapters of different ranks.",
        ) from error
    model.set_adapter("blend")
    for module in model.modules():
        if isinstance(module, LoraLayer) and "blend" in module.scaling:
            # The factors contain the scaling; PEFT 0.21 applies another one where the first adapter has rsLoRA.
            module.scaling["blend"] = 1.0


def _check_loaded(model: PeftModel, name: str, adapter: Adapter, unexpected: list[str]) -> None:
    """Make sure that every tensor of the adapter has its place, and every place its tensor."""
    for key in unexpected:
        if not _is_copy(key, adapter):
            raise ExportError(
                f"{adapter.weights} has {key}, which its configuration does not explain.",
                "Save the adapter again with PEFT's save_pretrained().",
            )
    for key, parameter in model.named_parameters():
        if f".{name}" in key and parameter.is_meta:
            raise _lacking(adapter, key.replace(f".{name}", ""))


def _lacking(adapter: Adapter, tensor: str) -> ExportError:
    return ExportError(
        f"{adapter.weights} lacks {tensor}, which its adapter_config.json asks for.", "Copy it again from its source."
    )


def _is_copy(key: str, adapter: Adapter) -> bool:
    """Whether PEFT has saved a tensor twice, and reads it under its other name.

    Where training has resized the vocabulary, PEFT saves all that embeddings and LM head hold, beside what it reads.
    """
    module, _, leaf = key.removeprefix(PEFT_PREFIX).rpartition(".modules_to_save.")
    if module:
        return f"{module}.{leaf}" in adapter.shapes
    # A tied LM head is read from the embeddings' entry.
    tokens = "token_adapter.trainable_tokens_delta"
    return key.endswith(f"lm_head.{tokens}") and any(name.endswith(f"embed_tokens.{tokens}") for name in adapter.shapes)


def _parameters(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shapes of a model's weights by name, in its order; and for those that are tied, the first one's name."""
    first: dict[nn.Parameter, str] = {}
    shapes, tied = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = tuple(parameter.shape)
        if first.setdefault(parameter, name) != name:
            tied[name] = first[parameter]
    return shapes, tied


def _adapters_of(layer: LoraLayer) -> set[str]:
    return {*layer.lora_A, *layer.lora_embedding_A}


def _own(module: nn.Module) -> nn.Module:
    """The module that has the weight of its own, below what PEFT has put around it."""
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[module.active_adapters[0]]
    elif isinstance(module, TrainableTokensWrapper):
        return _own(module.token_adapter.base_layer)
    elif isinstance(module, LoraLayer):
        return _own(module.base_layer)
    return module


def _merge_layer(layer: Any, prefix: str, leaf: str, read: ReadWeight) -> Float32:
    """A parameter of one of PEFT's layers, with its adapters merged."""
    with _lent(layer.base_layer, prefix, read):
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ExportError(
                f"The adapter cannot be merged into {prefix}{leaf}: {error}.", "Check the base and the adapter."
            ) from error
        layer.merged_adapters.clear()
        return _to_numpy(getattr(layer.base_layer, leaf))


@contextmanager
def _lent(layer: nn.Module, prefix: str, read: ReadWeight) -> Iterator[None]:
    """Give a layer its real weights for the duration of the block."""
    held = dict(layer.named_parameters(recurse=False))
    for leaf, parameter in held.items():
        if _is_placeholder(parameter):
            real = torch.from_numpy(read(prefix + leaf))
            layer.register_parameter(leaf, nn.Parameter(real, requires_grad=False))
        else:
            # Merging sets its data: what is held must stay as the adapter brought it.
            layer.register_parameter(leaf, nn.Parameter(parameter.data, requires_grad=False))
    try:
        yield
    finally:
        for leaf, parameter in held.items():
            layer.register_parameter(leaf, parameter)


def _to_numpy(tensor: Tensor) -> Float32:
    array: Float32 = tensor.detach().float().numpy()
    return array
