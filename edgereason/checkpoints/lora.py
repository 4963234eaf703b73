"""The factors of a plain LoRA adapter, which can be applied row by row: a projection `W` of the base becomes
`W + s B A` (LoRA, arXiv 2106.09685).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgereason.checkpoints.adapter_files import AdapterFiles, float_array, open_adapter_files
from edgereason.checkpoints.safetensors_reader import MappedTensor
from edgereason.checkpoints.weights import FloatWeight
from edgereason.errors import BundleError

_MERGE = "Export it merged into its base instead."
# Fields of adapter_config.json that would change the computation, and the values with which they do not.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "trainable_token_indices": ([],),
    "target_parameters": ([],),
    "layer_replication": ([],),
}


@dataclass(frozen=True)
class Lora:
    """What an adapter does to one projection: `scale * b a` is added to its weight."""

    a: FloatWeight  # [rank, inputs]
    b: FloatWeight  # [outputs, rank]
    scale: float


@dataclass(frozen=True)
class LoraAdapter:
    """A LoRA adapter.

    Attributes:
        path: Its directory.
        base: The name of the base that it was trained on, as its configuration says.
        targets: By the checkpoint's name of the projection, such as `model.layers.0.self_attn.q_proj`.
        digest: SHA-256 of its two files.
        invocation: Tokens from which on an activated adapter applies (aLoRA, arXiv 2504.12397); empty where all of a
            sequence's tokens have the adapter.
    """

    path: Path
    base: str
    targets: dict[str, Lora]
    digest: bytes
    invocation: tuple[int, ...] = ()

    def activation(self, ids: Sequence[int]) -> int:
        """From which of `ids` on the adapter applies: where the last invocation begins; `len(ids)` without one.

        The last one, because a text that is quoted in a prompt may hold an invocation, too; PEFT takes it as well.
        """
        length = len(self.invocation)
        for start in range(len(ids) - length, -1, -1):
            if tuple(ids[start : start + length]) == self.invocation:
                return start
        return len(ids)


def read_adapter(path: Path) -> LoraAdapter:
    """Read an adapter's directory; see `plain_lora`.

    Raises:
        BundleError: files are missing or damaged, values are not finite, or it is not a plain LoRA adapter.
    """
    return plain_lora(open_adapter_files(path))


def plain_lora(files: AdapterFiles) -> LoraAdapter:
    """The factors of an opened adapter.

    Raises:
        BundleError: it does more than adding a product of factors to linear layers, or its factors do not fit together.
    """
    _check_plain(files.config, files.config_file)
    factors: dict[str, dict[str, FloatWeight]] = {}
    for name, tensor in files.tensors.items():
        target, _, part = name.rpartition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise BundleError(f"{files.weights_file} has {name}, which is no LoRA factor of a linear layer.", _MERGE)
        factors.setdefault(target, {})[part[0]] = _factor(tensor, name, files.weights_file)
    targets = {target: _lora(target, parts, files.config, files.weights_file) for target, parts in factors.items()}
    if not targets:
        raise BundleError(f"{files.weights_file} changes nothing: it has no LoRA factors.", "Save the adapter again.")
    return LoraAdapter(files.path, files.base, targets, files.digest(), _invocation(files.config, files.config_file))


def _check_plain(config: dict[str, Any], file: Path) -> None:
    for field, neutral in _NEUTRAL.items():
        if (value := config.get(field)) is not None and value not in neutral:
            raise BundleError(f"{file}: {field} = {value!r} cannot be applied row by row.", _MERGE)


def _invocation(config: dict[str, Any], file: Path) -> tuple[int, ...]:
    tokens = config.get("alora_invocation_tokens")
    if tokens is None:
        return ()
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise BundleError(f"{file}: alora_invocation_tokens is {tokens!r}, no list of token ids.", "Save it again.")
    return tuple(tokens)


def _factor(tensor: MappedTensor, name: str, file: Path) -> FloatWeight:
    if tensor.dtype not in ("F16", "BF16", "F32") or tensor.array.ndim != 2 or 0 in tensor.array.shape:
        raise BundleError(f"{file}: {name} is {tensor.dtype} {list(tensor.array.shape)}, no LoRA factor.")
    return float_array(tensor)


def _lora(target: str, parts: dict[str, FloatWeight], config: dict[str, Any], file: Path) -> Lora:
    if set(parts) != {"A", "B"}:
        raise BundleError(f"{file} has only half of the factors of {target}.", "Copy it again from its source.")
    a, b = parts["A"], parts["B"]
    rank = a.shape[0]
    if b.shape[1] != rank:
        raise BundleError(f"{file}: the factors of {target} have ranks {rank} and {b.shape[1]}.")
    alpha = _alpha(target, config, file)
    return Lora(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _alpha(target: str, config: dict[str, Any], file: Path) -> float:
    """`lora_alpha`, or what `alpha_pattern` has for the target: its keys are expressions for the ends of names."""
    alpha, patterns = config.get("lora_alpha", 8), config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise BundleError(f"{file.parent / 'adapter_config.json'}: alpha_pattern is {patterns!r}, no object.")
    for pattern, value in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({pattern})$", target)
        except re.error as error:
            raise BundleError(f"{file}: alpha_pattern has {pattern!r}, which is no expression: {error}.") from error
        if matches:
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise BundleError(f"{file.parent / 'adapter_config.json'}: lora_alpha is {alpha!r}, it has to be a number.")
    return float(alpha)
