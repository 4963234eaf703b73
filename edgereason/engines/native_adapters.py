"""Bringing a LoRA adapter to the weights of an opened model."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from edgereason.checkpoints.lora import Lora, LoraAdapter
from edgereason.checkpoints.weights import FloatWeight
from edgereason.errors import BundleError
from edgereason.kernels.packing import BFloat16
from edgereason.models.projections import Projection

_TABLES = ("model.embed_tokens", "lm_head")
"""Weights that rows of all adapters share: the families' files give them no rows."""


def attach_adapter(
    ops: ModuleType, projections: dict[str, Projection], index: int, adapter: LoraAdapter, exact: bool
) -> None:
    """Attach an adapter to the weights of the backend `ops`, all of it or nothing.

    Args:
        ops: A backend of `edgereason.kernels`.
        projections: The model's, by name.
        index: By which rows will name the adapter.
        adapter: What to attach.
        exact: Keep float32 factors in float32; otherwise in float16, where they fit.

    Raises:
        BundleError: the model lacks a projection that the adapter changes, or has it in another shape.
    """
    parts: dict[int, list[object]] = {}
    weights: dict[int, object] = {}
    for target, lora in adapter.targets.items():
        found = _find(projections, target, lora, adapter)
        part = ops.LoraPart(_narrow(lora.a, exact), _narrow(lora.b, exact), lora.scale, found.first)
        weights[id(found.weight)] = found.weight
        parts.setdefault(id(found.weight), []).append(part)
    for key, weight in weights.items():
        ops.attach(weight, index, parts[key])


def detach_adapter(ops: ModuleType, projections: dict[str, Projection], index: int, adapter: LoraAdapter) -> None:
    """Take an adapter from the weights again."""
    for target in adapter.targets:
        ops.detach(projections[target].weight, index)


def _find(projections: dict[str, Projection], target: str, lora: Lora, adapter: LoraAdapter) -> Projection:
    cure = f'{adapter.path.name}/adapter_config.json names "{adapter.base}" as its base: open that one.'
    if target in _TABLES:
        raise BundleError(
            f"{adapter.path} changes {target}, which all rows share.", "Export it merged into its base instead."
        )
    found = projections.get(target)
    if found is None:
        raise BundleError(f"{adapter.path} changes {target}, which this model does not have.", cure)
    shape = (lora.b.shape[0], lora.a.shape[1])
    if shape != (found.rows, found.columns):
        raise BundleError(
            f"{adapter.path} was trained on another base: its {target} is {list(shape)}, "
            f"the model's {[found.rows, found.columns]}.",
            cure,
        )
    return found


def _narrow(factor: FloatWeight, exact: bool) -> FloatWeight:
    if exact or isinstance(factor, BFloat16) or factor.dtype == np.float16:
        return factor
    if np.abs(factor).max() > np.finfo(np.float16).max:
        return factor
    return factor.astype(np.float16)
