"""The LoRA adapters that are loaded beside a native model, and which tokens each of them computes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from edgereason.checkpoints.adapter_files import PEFT_PREFIX
from edgereason.checkpoints.lora import EMBEDDINGS_AND_HEAD, Lora, LoraAdapter
from edgereason.checkpoints.weights import FloatWeight
from edgereason.engines.checks import unknown_adapter
from edgereason.engines.saved_session import NO_ADAPTER
from edgereason.errors import BundleError, EngineError
from edgereason.kernels.packing import BFloat16
from edgereason.models.projections import Projection


class NativeAdapters:
    """The adapters of one model, by their index. The engine's lock is held while they change.

    Args:
        ops: The backend of `edgereason.kernels` that has prepared the weights.
        projections: The model's, by name.
        vocab_size: The model's.
        exact: Keep float32 factors in float32; otherwise in float16, where they fit.
    """

    def __init__(self, ops: ModuleType, projections: dict[str, Projection], vocab_size: int, exact: bool) -> None:
        self._ops = ops
        self._projections = projections
        self._vocab_size = vocab_size
        self._exact = exact
        self._loaded: dict[int, LoraAdapter] = {}
        self._next_index = 0

    def attach(self, adapter: LoraAdapter) -> int:
        """Attach an adapter to the weights, all of it or nothing; returns its index.

        Raises:
            BundleError: the model lacks a projection that the adapter changes, has it in another shape, or lacks a
                token that activates the adapter; or the adapter lacks factors that its configuration names.
        """
        if max(adapter.invocation, default=0) >= self._vocab_size:
            raise BundleError(
                f"{adapter.path} is activated by the tokens {list(adapter.invocation)}, "
                f"the model's vocabulary has {self._vocab_size}.",
                _other_base(adapter),
            )
        index = self._next_index
        parts: dict[int, list[object]] = {}
        weights: dict[int, object] = {}
        for target, lora in adapter.targets.items():
            found = self._projection(target, lora, adapter)
            part = self._ops.LoraPart(self._narrow(lora.a), self._narrow(lora.b), lora.scale, found.first)
            weights[id(found.weight)] = found.weight
            parts.setdefault(id(found.weight), []).append(part)
        if missing := adapter.lacks(dict.fromkeys([*self._projections, *EMBEDDINGS_AND_HEAD])):
            raise BundleError(
                f"{adapter.path / 'adapter_model.safetensors'} lacks {PEFT_PREFIX}{missing}.lora_A.weight, which its "
                "adapter_config.json asks for.",
                "Copy it again from its source.",
            )
        for key, weight in weights.items():
            self._ops.attach(weight, index, parts[key])
        self._loaded[index] = adapter
        self._next_index += 1
        return index

    def detach(self, index: int) -> None:
        """Take an adapter from the weights again.

        Raises:
            UsageError: there is none of this index.
        """
        self.check(index)
        for target in self._loaded.pop(index).targets:
            self._ops.detach(self._projections[target].weight, index)

    def check(self, adapter: int | None) -> None:
        """Raise `UsageError` where an index is not one of a loaded adapter."""
        if adapter is not None and adapter not in self._loaded:
            raise unknown_adapter(adapter, "load_adapter() returns the index of one.")

    def digest(self, adapter: int | None) -> bytes:
        """32 bytes that tell an adapter's files apart from others'.

        Raises:
            EngineError: the adapter has been unloaded.
        """
        if adapter is None:
            return NO_ADAPTER
        if adapter not in self._loaded:
            raise EngineError(f"The session's adapter {adapter} is not loaded.", "Load it again.")
        return self._loaded[adapter].digest

    def of_digest(self, digest: bytes) -> int | None:
        """The index of the adapter with a digest.

        Raises:
            BundleError: none of those loaded.
        """
        if digest == NO_ADAPTER:
            return None
        for index, adapter in self._loaded.items():
            if adapter.digest == digest:
                return index
        raise BundleError("The saved session needs an adapter that is not loaded.", "Load the adapter first.")

    def invocation(self, adapter: int | None) -> tuple[int, ...]:
        """The tokens from which on an activated adapter (aLoRA, arXiv 2504.12397) applies; none for other adapters."""
        return () if adapter is None else self._loaded[adapter].invocation

    def base_tokens(self, adapter: int | None, ids: Sequence[int]) -> int:
        """How many of `ids` the base alone computes: those before an activated adapter's last invocation."""
        if adapter is None:
            return len(ids)
        return self._loaded[adapter].activation(ids) if self.invocation(adapter) else 0

    def close(self) -> None:
        """Let go of adapters and weights."""
        self._loaded, self._projections = {}, {}

    def _projection(self, target: str, lora: Lora, adapter: LoraAdapter) -> Projection:
        if target in EMBEDDINGS_AND_HEAD:  # the families' files tell these weights nothing of the rows
            raise BundleError(
                f"{adapter.path} changes {target}: embeddings and LM head are computed without adapters.",
                "Export it merged into its base instead.",
            )
        found = self._projections.get(target)
        if found is None:
            raise BundleError(f"{adapter.path} changes {target}, which this model does not have.", _other_base(adapter))
        shape = (lora.b.shape[0], lora.a.shape[1])
        if shape != (found.rows, found.columns):
            raise BundleError(
                f"{adapter.path} was trained on another base: its {target} is {list(shape)}, "
                f"the model's {[found.rows, found.columns]}.",
                _other_base(adapter),
            )
        return found

    def _narrow(self, factor: FloatWeight) -> FloatWeight:
        if self._exact or isinstance(factor, BFloat16) or factor.dtype == np.float16:
            return factor
        if np.abs(factor).max() > np.finfo(np.float16).max:
            return factor
        return factor.astype(np.float16)


def _other_base(adapter: LoraAdapter) -> str:
    return f'{adapter.path.name}/adapter_config.json names "{adapter.base}" as its base: open that one.'
